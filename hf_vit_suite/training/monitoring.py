"""How good the features of a model are while it learns without labels."""

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import LabelledImages
from ..evaluation.features import ImageEncoder, extract_features
from ..evaluation.knn import knn_report

# Enough to tell one state of a model from another, and few enough to be passed through it again and again.
MOST_VOTERS, MOST_QUERIES = 20_000, 2_000
NEIGHBOURS = 20


class NeighbourAccuracy(TrainerCallback):
    """Logs how many validation images the nearest training images classify, before training and every few steps.

    Args:
        trainer: Whose encoder is measured; in several processes the first does it.
        images: Labelled images; at most 20,000 vote on at most 2,000.
        knn_steps: Steps between two measurements.
    """

    def __init__(self, trainer: Trainer, images: LabelledImages, knn_steps: int):
        self.trainer = trainer
        self.voters, self.queries = (
            split.shuffle(seed=0).select(range(min(most, len(split))))
            for split, most in ((images.splits["train"], MOST_VOTERS), (images.splits["validation"], MOST_QUERIES))
        )
        self.num_labels = len(images.label_names)
        self.knn_steps = knn_steps

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step == 0:
            self.measure(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step % self.knn_steps == 0:
            should_log = control.should_log
            self.measure(state)
            control.should_log = should_log  # logging takes the step's own line of the log as written

    def measure(self, state: TrainerState) -> None:
        """Adds `knn_accuracy` to the log."""
        if not state.is_world_process_zero:
            return
        model = self.trainer.model.base_model
        was_training = model.training
        encoder = ImageEncoder(model.eval(), self.trainer.processing_class)
        features = [extract_features(encoder, split) for split in (self.voters, self.queries)]
        model.train(was_training)
        (accuracies,) = knn_report(*features, self.num_labels, (NEIGHBOURS,)).values()
        self.trainer.log({"knn_accuracy": accuracies["accuracy"]})
