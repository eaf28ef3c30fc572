"""Pictures of a masked autoencoder while it learns."""

from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from ..drawing import write_figures
from ..explain import reconstruction_figure


class ReconstructionPreview(TrainerCallback):
    """Draws image, mask and reconstruction of the same images again and again, into `previews/` and TensorBoard.

    Args:
        trainer: Whose model is drawn.
        pixel_values: `[images, channels, height, width]`, normalised.
        noise: `[images, patches]`, which draws their masks.
        preview_steps: Steps between two pictures.
    """

    def __init__(self, trainer: Trainer, pixel_values: Tensor, noise: Tensor, preview_steps: int):
        self.trainer = trainer
        self.pixel_values = pixel_values
        self.noise = noise
        self.preview_steps = preview_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step % self.preview_steps or not state.is_world_process_zero:
            return
        folder, step = Path(args.output_dir, "previews"), state.global_step
        write_figures(folder, {f"step-{step:08d}.png": lambda: self.draw(step)}, dpi=100)

    def draw(self, step: int) -> Figure:
        """The figure of a step, which TensorBoard shows too."""
        model = self.trainer.model.eval()
        try:
            device = model.device
            figure = reconstruction_figure(
                model, self.pixel_values.to(device), self.noise.to(device), self.trainer.processing_class
            )
        finally:
            model.train()
        if (writer := tensorboard_writer(self.trainer)) is not None:
            writer.add_figure("reconstruction", figure, step)
        return figure


def tensorboard_writer(trainer: Trainer):
    """The `SummaryWriter` of Trainer's log; `None` where it keeps none."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            return callback.tb_writer
    return None
