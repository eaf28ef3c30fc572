"""The verbs of `hf-vit-suite`, one file each: parse, call the Python API, print."""

COMMANDS = {
    "models": "list the architectures",
    "check": "look at a data set: what can't be read, copies, sizes, images of each class",
    "predict": "classify images",
    "explain": "draw what a model attends to",
    "finetune": "fine-tune an image classifier",
    "pretrain": "pretrain an encoder without labels, or on captions",
    "evaluate": "measure features, a classifier, a CLIP or explanations",
    "convert": "convert reference weights to a model folder, or back",
}
