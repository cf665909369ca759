"""The commands, by their words: where the flow or function of each is."""

from collections.abc import Mapping

COMMANDS: Mapping[str, str] = {
    "demo": "flows.demo:run_demo",
    "run": "flows.pipeline:run_pipeline",
    "align": "flows.align:align_photos",
    "invert": "flows.invert:invert_faces",
    "relevance": "flows.relevance:build_relevance",
    "train-mapper": "flows.mappers:train_mappers",
    "tune": "flows.tune:tune_strengths",
    "edit": "flows.edit:edit_dataset",
    "evaluate": "flows.evaluate:evaluate_run",
    "verify": "flows.verify:verify_run",
    "doctor": "flows.doctor:examine_assets",
    "faces": "flows.faces:list_faces",
    "forget": "flows.forget:forget_image",
    "deploy": "flows.deploy:deploy_flows",
    "manifest build": "flows.manifest_commands:build_edit_manifest",
    "manifest validate": "flows.manifest_commands:validate_edit_manifest",
    "weights list": "flows.bundles:list_weights",
    "weights add": "flows.weights:add_weights",
    "weights verify": "flows.weights:verify_weights",
    "weights convert": "flows.weights:convert_weights",
    "latents import": "flows.interchange:import_latents",
    "latents export": "flows.interchange:export_latents",
    "latents import-directions": "flows.interchange:import_directions",
    "latents export-directions": "flows.interchange:export_directions",
}
GROUPS: Mapping[str, str] = {
    "manifest": "Build and check manifests.",
    "weights": "Bundles of weights.",
    "latents": "Latents from and for other tools.",
}
