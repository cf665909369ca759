"""Deterministic weight filler for the StyleCLIP acceptance oracle (self-written; see FILLER.md).

value(key, shape) = postprocess( raw(key, shape) )
raw(key, shape)   = Generator(PCG64(SeedSequence([seed, crc32(key utf-8)])))
                    .standard_normal(shape).astype(float32)
"""

import re
import zlib

import numpy as np

F32 = np.float32


def raw(seed, key, shape):
    g = np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(key.encode("utf-8"))]))
    )
    return (
        np.asarray(g.standard_normal(tuple(shape)), dtype=np.float64)
        .astype(F32)
        .reshape(tuple(shape))
    )


def blur_kernel(gain):
    k = np.array([1, 3, 3, 1], dtype=F32)
    k = k[None, :] * k[:, None]
    k = k / k.sum()
    return (k * F32(gain)).astype(F32)


def fan_in(shape):
    n = 1
    for d in shape[1:]:
        n *= int(d)
    return n


def fill(seed, key, shape, keys, dtype="float32"):
    """numpy array for one state_dict entry. `keys` = set of all keys of the same module."""
    shape = tuple(int(d) for d in shape)
    stem, _, leaf = key.rpartition(".")
    sib = lambda name: (stem + "." + name if stem else name) in keys

    # ---- 0. constants, never random ------------------------------------
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf == "kernel":  # rosinality Blur / Upsample: always (4,4), gain 4 in the generator
        return blur_kernel(4.0)
    if leaf == "resample_filter":  # NVIDIA: (4,4), gain 1
        return blur_kernel(1.0)

    r = raw(seed, key, shape)

    # ---- 1. latent averages --------------------------------------------
    if leaf in ("latent_avg", "w_avg"):
        return F32(0.1) * r
    # ---- 2. BatchNorm (any layer that has a running_mean sibling) -------
    if leaf == "running_mean":
        return F32(0.1) * r
    if leaf == "running_var":
        return F32(1.0) + F32(0.2) * np.abs(r)
    if sib("running_mean"):
        if leaf == "weight":
            return F32(1.0) + F32(0.1) * r
        if leaf == "bias":
            return F32(0.1) * r
    # ---- 3. equalised-lr mapping layers, lr_mul 0.01 --------------------
    #  rosinality `style.N.*`; StyleCLIP mapper `*mapping.N.*`; NVIDIA `mapping.fcN.*`
    if re.search(r"(^|\.)(style\.\d+|mapping\.\d+|mapping\.fc\d+)$", stem):
        return F32(100.0) * r if leaf == "weight" else F32(10.0) * r
    # ---- 4. style affine ------------------------------------------------
    if stem.endswith(".modulation") or stem.endswith(".affine"):
        return F32(0.5) * r if leaf == "weight" else F32(1.0) + F32(0.1) * r
    # ---- 5. noise --------------------------------------------------------
    if re.search(r"(^|\.)noises\.noise_\d+$", key) or leaf == "noise_const":
        return r
    if stem.endswith(".noise") or leaf == "noise_strength":
        return F32(0.1) * r
    # ---- 6. toRGB convolution -------------------------------------------
    if re.search(r"(^|\.)(to_rgb1|to_rgbs\.\d+)\.conv\.weight$", key) or key.endswith(
        ".torgb.weight"
    ):
        return F32(0.2) * r
    # ---- 7. constants and equalised-lr weights (randn init) --------------
    if key == "input.input" or leaf == "const":
        return r
    if len(shape) == 5:  # rosinality modulated conv (1,O,I,k,k)
        return r
    if re.search(r"^synthesis\.b\d+\.conv[01]\.weight$", key):
        return r
    if re.search(r"^styles\.\d+\.linear\.weight$", key):  # e4e EqualLinear
        return r
    # ---- 8. PReLU slopes: 1-D weight without BatchNorm siblings ----------
    if leaf == "weight" and len(shape) == 1:
        return F32(0.25) + F32(0.05) * r
    # ---- 9. every other bias ---------------------------------------------
    if leaf == "bias":
        return F32(0.1) * r
    # ---- 10. plain Conv2d / Linear weights -------------------------------
    if leaf == "weight":
        g = 2.0 if re.search(r"^styles\.\d+\.convs\.\d+\.weight$", key) else 1.0
        return F32(np.sqrt(g / fan_in(shape))) * r
    raise KeyError("no filler rule for %r %r" % (key, shape))


def fill_spec(seed, entries):
    """entries: list of {key, shape, dtype} (a spec's `state_dict`) -> dict key -> array"""
    keys = {e["key"] for e in entries}
    out = {}
    for e in entries:
        a = np.ascontiguousarray(fill(seed, e["key"], e["shape"], keys, e["dtype"]))
        out[e["key"]] = a.reshape(tuple(e["shape"]))
    return out


def inp(seed, name, shape):
    """Named standard-normal input tensor: raw(seed, 'input:' + name, shape)."""
    return raw(seed, "input:" + name, shape)
