"""Examples that `--help` shows, by command."""

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": (
        "styleclip demo",
        "styleclip run photos/ prompts.csv ws --models ffhq.json",
        "styleclip --json edit ws edits.parquet --run smiles --models ffhq.json",
    ),
    "demo": ("styleclip demo", "styleclip demo somewhere/else"),
    "run": (
        "styleclip run photos/ prompts.csv ws --models ffhq.json",
        "styleclip run s3://bucket/photos prompts.csv s3://bucket/ws --models s3://bucket/ffhq.json",
        "styleclip run photos/ prompts.csv ws --models ffhq.json --update",
    ),
    "align": (
        "styleclip align photos/ ws",
        "styleclip align 'photos/2024-*.jpg' ws --faces all --crop-size 1024",
        "styleclip align listing.csv s3://bucket/ws",
    ),
    "invert": ("styleclip invert ws --models ffhq.json --device cuda --batch-size 16",),
    "relevance": (
        "styleclip relevance ws --models ffhq.json",
        "styleclip relevance ws --models ffhq.json --mode exact --num-images 50",
    ),
    "train-mapper": (
        'styleclip train-mapper ws "a face with a mohawk" --models ffhq.json --steps 5000',
    ),
    "edit": (
        "styleclip edit ws edits.parquet --run smiles --models ffhq.json",
        "styleclip edit ws edits.parquet --run smiles --models ffhq.json --retry-failed",
        "styleclip edit ws edits.parquet --run smiles --models ffhq.json --update",
        "styleclip edit ws edits.parquet --run smiles --engine processes --workers 4",
        "styleclip edit ws edits.parquet --run smiles --worker prepare",
        "styleclip edit ws edits.parquet --run smiles --worker 0/8",
    ),
    "deploy": (
        "styleclip deploy s3://bucket/ws --api http://127.0.0.1:4200/api --gpus 4",
        "styleclip deploy s3://bucket/ws --photos s3://bucket/in --prompts s3://bucket/prompts.csv",
    ),
    "evaluate": (
        "styleclip evaluate ws --run smiles",
        "styleclip evaluate ws/runs/smiles ws/runs/earlier",
    ),
    "tune": (
        'styleclip tune ws tuned.parquet --target "a smiling face" --directional 0.3 --gain 0.08',
        "styleclip tune ws tuned.parquet --prompts prompts.csv --num-channels 20",
    ),
    "verify": ("styleclip verify ws --run smiles --sample 50",),
    "doctor": ("styleclip doctor ws --models ffhq.json",),
    "faces": ("styleclip faces ws", "styleclip --json faces ws --status no_face"),
    "forget": ("styleclip forget ws anna",),
    "manifest build": (
        'styleclip manifest build ws edits.parquet --target "a smiling face" --alpha 2 --alpha 4',
        "styleclip manifest build ws edits.parquet --prompts prompts.csv",
    ),
    "manifest validate": ("styleclip manifest validate edits.csv --workspace ws",),
    "weights list": ("styleclip weights list ffhq.json",),
    "weights add": (
        "styleclip weights add generator s3://weights/ffhq.pt --models ffhq.json --sha256 DIGEST",
    ),
    "weights verify": ("styleclip weights verify ffhq.json",),
    "weights convert": ("styleclip weights convert ffhq.pkl ffhq.pt --layout rosinality",),
    "latents import": ("styleclip latents import ws latents.pt --models ffhq.json",),
    "latents export": ("styleclip latents export ws w_plus.npy --models ffhq.json",),
    "latents import-directions": (
        "styleclip latents import-directions ws fs3.npy --models ffhq.json",
        "styleclip edit ws edits.csv --models ffhq.json --mode imported",
    ),
    "latents export-directions": (
        "styleclip latents export-directions ws/directions/1f0c5d0e9a7b3c21 fs3.npy",
    ),
}


def epilogue(words: str) -> str:
    """Return how the help of a command, or of a group of commands, ends: with examples.

    Args:
        words: The command as in EXAMPLES, or the first word of those of a group.
    """
    lines = EXAMPLES.get(words) or [
        line for name, some in EXAMPLES.items() if name.startswith(f"{words} ") for line in some
    ]
    # Each in its line: a block of code would have empty lines around it.
    return "Examples\n\n" + "  \n".join(f"`{line}`" for line in lines)
