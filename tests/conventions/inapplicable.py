"""The common tests that can't apply to a class, each with its reason."""

import re
from typing import NamedTuple


class Inapplicable(NamedTuple):
    """Tests that can't apply to some classes.

    Args:
        classes: Regular expression at the end of the test class's name.
        tests: Regular expression of the whole names of the tests.
        reason: Why.
        runs: Whether the test runs all the same, so that one that passes is an error and leaves the table. Not where
            it fails in a subtest, of which pytest expects nothing.
    """

    classes: str
    tests: str
    reason: str
    runs: bool = True


CLIP = "transformers skips it for its CLIPModel too: the outputs are the towers', whose own classes are tested"
TEACHER = "the encoder that comes first, and whose outputs are returned, is the teacher, which has no gradient"
INAPPLICABLE = (
    Inapplicable("Backbone", "test_retain_grad_hidden_states_attentions", "the first output is a tuple of maps"),
    Inapplicable("SuiteCLIPModel", "test_hidden_states_output", CLIP),
    Inapplicable("SuiteCLIPModel", "test_attention_outputs", CLIP),
    Inapplicable("SuiteCLIPModel", "test_retain_grad_hidden_states_attentions", CLIP),
    Inapplicable(
        "SuiteCLIPModel", "test_resize_tokens_embeddings", "as of transformers' CLIPModel, its text_model's are"
    ),
    Inapplicable("SuiteDINOForPreTraining", "test_retain_grad_hidden_states_attentions", TEACHER),
    Inapplicable("SuiteDINOForPreTraining", "test_training_gradient_checkpointing.*", TEACHER, runs=False),
    Inapplicable("SuiteDINOForPreTraining", "test_eager_matches_sdpa_inference_.*", "its masks are of several crops"),
)


def find_inapplicable(test_class: str, test: str) -> Inapplicable | None:
    """The table's entry of a test, if there is one."""
    for entry in INAPPLICABLE:
        if re.search(f"{entry.classes}$", test_class) and re.fullmatch(entry.tests, test):
            return entry
    return None
