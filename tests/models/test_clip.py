"""CLIP equals transformers' CLIPModel and open_clip in features, logits, loss and gradients."""

import math

import open_clip
import open_clip.loss
import pytest
import torch
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION
from references import (
    assert_equals_reference,
    from_open_clip,
    from_transformers_clip,
    gradients,
    randomise,
    relative_difference,
)
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPModel,
    SuiteCLIPTextModelWithProjection,
    SuiteCLIPVisionModelWithProjection,
    SuiteViTModel,
    preset_config,
)
from hf_vit_suite.models.contrastive import sigmoid_loss, similarities, softmax_loss

START, END = 49406, 49407


def texts(number: int, length: int, vocabulary: int = START) -> Tensor:
    """Random token ids that end at different places and are filled up with zeros."""
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1, vocabulary, (number, length), generator=generator)
    for row in range(number):
        end = 3 + (5 * row) % (length - 3)
        input_ids[row, 0], input_ids[row, end] = vocabulary, vocabulary + 1
        input_ids[row, end + 1 :] = 0
    return input_ids


def pictures(number: int, side: int) -> Tensor:
    """Random normalised images."""
    return torch.randn(number, 3, side, side, generator=torch.Generator().manual_seed(1))


def tiny_clip(**fields) -> SuiteCLIPModel:
    """A tiny CLIP with every weight random."""
    config = SuiteCLIPConfig(vision_config=TINY_CLIP_VISION, text_config=TINY_CLIP_TEXT, **fields)
    return randomise(SuiteCLIPModel(config), scale=0.1)


def tiny_pairs(number: int) -> dict[str, Tensor]:
    """Inputs of a tiny CLIP."""
    return {"input_ids": texts(number, 10, vocabulary=58), "pixel_values": pictures(number, 32)}


def assert_gradients_equal(model: nn.Module, expected: dict[str, Tensor], largest_logit: Tensor) -> None:
    """Every gradient within 1e-5 of the largest value of its layer's, weight and bias together.

    What moves all texts, or all images, alike changes little: the gradients of biases are what sums over the pairs
    leave of far larger terms, and that of the scale is so of the logits.
    """
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert (found.pop("logit_scale") - expected.pop("logit_scale")).abs() <= 1e-5 * largest_logit
    for name, reference in expected.items():
        layer = name.rpartition(".")[0]
        largest = max(gradient.abs().max() for other, gradient in expected.items() if other.startswith(f"{layer}."))
        assert (found[name] - reference).abs().max() <= 1e-5 * largest, name


@pytest.fixture(scope="module")
def reference_inputs() -> tuple[Tensor, Tensor]:
    """Three pairs for a ViT-B/32."""
    return pictures(3, 224), texts(3, 77)


@pytest.mark.parametrize(("name", "activation"), [("ViT-B-32", "gelu"), ("ViT-B-32-quickgelu", "quick_gelu")])
def test_features_logits_loss_and_gradients_equal_open_clip(name: str, activation: str, reference_inputs):
    pixel_values, input_ids = reference_inputs
    reference = randomise(open_clip.create_model(name), scale=0.01)
    towers = {tower: {"hidden_act": activation} for tower in ("vision_config", "text_config")}
    ours = SuiteCLIPModel(preset_config("clip_vit_b_32", **towers)).eval()
    ours.load_state_dict(from_open_clip(reference.state_dict()))

    outputs = ours(input_ids, pixel_values, return_loss=True)
    image_features, text_features, scale = reference(pixel_values, input_ids)
    assert_equals_reference(outputs.image_embeds, image_features)
    assert_equals_reference(outputs.text_embeds, text_features)
    assert_equals_reference(outputs.logits_per_image, scale * image_features @ text_features.T)
    assert_equals_reference(outputs.logits_per_text, scale * text_features @ image_features.T)
    loss = open_clip.ClipLoss()(image_features, text_features, scale)
    assert_equals_reference(outputs.loss, loss)
    outputs.loss.backward()
    loss.backward()
    assert_gradients_equal(ours, from_open_clip(gradients(reference)), outputs.logits_per_image.abs().max())


def test_features_logits_loss_and_gradients_equal_transformers(reference_inputs):
    pixel_values, input_ids = reference_inputs
    reference = randomise(CLIPModel(CLIPConfig()), scale=0.01)
    ours = SuiteCLIPModel(preset_config("clip_vit_b_32")).eval()
    ours.load_state_dict(from_transformers_clip(reference.state_dict()))

    outputs = ours(input_ids, pixel_values, return_loss=True)
    expected = reference(input_ids, pixel_values, return_loss=True)
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text", "loss"):
        assert_equals_reference(outputs[name], expected[name], name=name)
    with torch.no_grad():
        for call, arguments in (("get_image_features", pixel_values), ("get_text_features", input_ids)):
            found, wanted = (getattr(model, call)(arguments).pooler_output for model in (ours, reference))
            assert_equals_reference(found, wanted, name=call)
    outputs.loss.backward()
    expected.loss.backward()
    assert_gradients_equal(ours, from_transformers_clip(gradients(reference)), outputs.logits_per_image.abs().max())


def test_attentions_and_hidden_states_of_both_towers_equal_transformers():
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vision = {**fields, "image_size": 32, "patch_size": 8}
    text = {**fields, "vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 59, "bos_token_id": 58}
    text["pad_token_id"] = 59
    shared = {"vision_config": vision, "text_config": text, "projection_dim": 16}
    reference = CLIPModel._from_config(CLIPConfig(**shared), attn_implementation="eager")
    reference = randomise(reference, scale=0.1)
    ours = SuiteCLIPModel(SuiteCLIPConfig(**shared)).eval()
    ours.load_state_dict(from_transformers_clip(reference.state_dict()))
    wanted = {"output_attentions": True, "output_hidden_states": True}
    found, expected = (model(**tiny_pairs(2), **wanted) for model in (ours, reference))
    for tower in ("vision_model_output", "text_model_output"):
        for name in ("attentions", "hidden_states"):
            for one, other in zip(found[tower][name], expected[tower][name], strict=True):
                assert_equals_reference(one, other, name=f"{tower} {name}")
    chosen = ours(**tiny_pairs(2), output_attentions=True, attention_layers=[-1])
    assert_equals_reference(chosen.text_model_output.attentions[0], found.text_model_output.attentions[-1])
    assert chosen.text_model_output.hidden_states is None


@pytest.mark.parametrize(
    ("ours", "reference", "bias"),
    [(softmax_loss, open_clip.ClipLoss(), None), (sigmoid_loss, open_clip.loss.SigLipLoss(), -10.0)],
    ids=["softmax", "sigmoid"],
)
def test_losses_and_their_gradients_equal_open_clip(ours, reference, bias: float | None):
    leaves = []
    for _ in range(2):
        torch.manual_seed(3)
        values = [torch.randn(20, 16), torch.randn(20, 16), torch.tensor(14.0)]
        values += [] if bias is None else [torch.tensor(bias)]
        leaves.append([value.requires_grad_() for value in values])
    features = [[nn.functional.normalize(value, dim=-1) for value in values[:2]] for values in leaves]
    found = ours(similarities(*features[0], *leaves[0][2:]))
    expected = reference(*features[1], *leaves[1][2:])
    assert_equals_reference(found, expected)
    found.backward()
    expected.backward()
    for one, other in zip(*leaves, strict=True):
        assert_equals_reference(one.grad, other.grad)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [3, 4, 12, 50])
def test_gradients_of_cached_batches_equal_those_of_the_whole(loss_type: str, size: int):
    model = tiny_clip(loss_type=loss_type).train()
    pairs = tiny_pairs(12)
    plain = model(**pairs, return_loss=True)
    plain.loss.backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    cached = model(**pairs, return_loss=True, cached_batch_size=size)
    cached.loss.backward()
    assert relative_difference(cached.loss, plain.loss) <= 1e-6
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, weight in model.named_parameters():
        assert (weight.grad - expected[name]).abs().max() <= 1e-6 * largest, name


def test_cached_batches_draw_the_same_dropout_in_both_passes():
    model = tiny_clip()
    for tower in (model.config.vision_config, model.config.text_config):
        tower.hidden_dropout_prob = 0.3
    model.config.vision_config.patch_dropout = 0.5
    model = randomise(SuiteCLIPModel(model.config), scale=0.1).train()
    pairs = tiny_pairs(4)
    torch.manual_seed(5)
    model(**pairs, return_loss=True, cached_batch_size=2).loss.backward()
    found = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()

    torch.manual_seed(5)
    features = [
        torch.cat([encode(part, **options).pooler_output for part in inputs.split(2)])
        for encode, inputs, options in (
            (model.get_image_features, pairs["pixel_values"], {"num_output_tokens": 1}),
            (model.get_text_features, pairs["input_ids"], {}),
        )
    ]
    images, words = (nn.functional.normalize(feature, dim=-1) for feature in features)
    softmax_loss(similarities(images, words, model.logit_scale.exp())).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_cached_batches_compute_in_the_precision_of_the_forward_pass():
    model, pairs = tiny_clip().train(), tiny_pairs(4)
    found = []
    for size in (None, 4):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**pairs, return_loss=True, cached_batch_size=size).loss
        loss.backward()  # outside, as Accelerate does
        found.append([weight.grad.clone() for weight in model.parameters()])
    for one, other in zip(*found, strict=True):
        assert (one - other).abs().max() <= 1e-6 * max(1, other.abs().max())


def test_cached_batches_keep_the_activations_of_one_part():
    model, pairs = tiny_clip().train(), tiny_pairs(16)

    def kept_bytes(**options) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(**pairs, return_loss=True, **options)
        return sum(sizes)

    assert kept_bytes(cached_batch_size=4) < kept_bytes() / 10


@torch.no_grad()
def test_what_follows_the_end_of_a_text_changes_nothing():
    model = tiny_clip()
    input_ids = texts(3, 10, vocabulary=58)
    expected = model.get_text_features(input_ids).pooler_output
    ends = (input_ids == 59).int().argmax(dim=1)
    changed = input_ids.clone()
    for row, end in enumerate(ends):
        changed[row, end + 1 :] = 59 if row else 7
    assert_equals_reference(model.get_text_features(changed).pooler_output, expected)
    longer = torch.cat((input_ids, torch.full((3, 2), 59)), dim=1)
    assert_equals_reference(model.get_text_features(longer).pooler_output, expected)


@torch.no_grad()
def test_patches_are_dropped_in_training_alone():
    model = tiny_clip()
    pixel_values = pictures(2, 32)
    expected = model.get_image_features(pixel_values).pooler_output
    model.config.vision_config.patch_dropout = 0.5
    assert torch.equal(model.get_image_features(pixel_values).pooler_output, expected)
    model.train()
    tokens = model.vision_model(pixel_values).last_hidden_state
    assert tokens.shape[1] == 1 + 8
    model.config.vision_config.patch_dropout = 0.99
    assert model.vision_model(pixel_values).last_hidden_state.shape[1] == 1 + 1
    # What is kept is what those patches alone give: with one patch, one of the sixteen.
    one = model.get_image_features(pixel_values).pooler_output
    choices = torch.stack(
        [
            model.visual_projection(
                model.vision_model.norm(
                    model.vision_model.encoder(
                        model.vision_model.pre_norm(
                            model.vision_model.embeddings(pixel_values, visible=torch.full((2, 1), patch))
                        )
                    ).last_hidden_state[:, 0]
                )
            )
            for patch in range(16)
        ]
    )
    distances = (choices - one).abs().amax(dim=2)
    assert (distances.min(dim=0).values < 1e-5).all()


@torch.no_grad()
def test_each_tower_opens_from_the_folder_of_both(tmp_path):
    model = tiny_clip()
    model.save_pretrained(tmp_path)
    pairs = tiny_pairs(2)
    image, loading = SuiteCLIPVisionModelWithProjection.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    text, loading = SuiteCLIPTextModelWithProjection.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    found = image.eval()(pairs["pixel_values"]).image_embeds
    assert_equals_reference(found, model.get_image_features(pairs["pixel_values"]).pooler_output)
    found = text.eval()(pairs["input_ids"]).text_embeds
    assert_equals_reference(found, model.get_text_features(pairs["input_ids"]).pooler_output)


@torch.no_grad()
def test_image_tower_goes_on_as_a_plain_vision_transformer():
    model = tiny_clip()
    plain = SuiteViTModel(model.config.encoder_config()).eval()
    plain.load_state_dict(model.vision_model.state_dict())
    pixel_values = pictures(2, 32)
    assert_equals_reference(plain(pixel_values).pooler_output, model.vision_model(pixel_values).pooler_output)


def test_text_tower_starts_with_the_spread_of_open_clip():
    reference = from_open_clip(open_clip.create_model("ViT-B-32").state_dict())
    ours = SuiteCLIPModel(preset_config("clip_vit_b_32"))
    for name, weight in ours.named_parameters():
        if name.startswith("text") and not name.endswith("bias") and reference[name].std() > 0:
            assert weight.std().item() == pytest.approx(reference[name].std().item(), rel=0.05), name
    assert ours.logit_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-4)


def test_scale_stays_at_a_hundred_or_below():
    model = tiny_clip()
    model.logit_scale.data.fill_(9.0)
    model.clamp_scale()
    assert model.logit_scale.exp().item() == pytest.approx(100.0)
    model.logit_scale.data.fill_(1.0)
    model.clamp_scale()
    assert model.logit_scale.item() == 1.0


@torch.no_grad()
def test_accuracy_is_the_share_of_images_that_find_their_text():
    model = tiny_clip()
    outputs = model(**tiny_pairs(9), return_loss=True)
    hits = [row.argmax().item() == number for number, row in enumerate(outputs.logits_per_image)]
    assert outputs.accuracy.item() == pytest.approx(sum(hits) / 9)


def test_bad_input_is_refused_in_one_line():
    model = tiny_clip()
    with pytest.raises(ValueError, match="needs pairs, got 3 images and 2 texts"):
        model(texts(2, 10, vocabulary=58), pictures(3, 32), return_loss=True)
    with pytest.raises(ValueError, match="may have 12 tokens, got 13"):
        model.get_text_features(torch.zeros(1, 13, dtype=torch.long))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss_type": "hinge"}, "loss_type must be one of softmax, sigmoid, got 'hinge'"),
        ({"projection_dim": 0}, "projection_dim must be at least 1, got 0"),
        ({"vision_config": {"projection_dim": 8}}, "same in both towers, got 8 for images and 512 for texts"),
        ({"vision_config": {"patch_dropout": 1.0}}, "patch_dropout must be at least 0 and below 1, got 1.0"),
        ({"text_config": {"num_attention_heads": 7}}, "hidden_size must be a multiple of num_attention_heads"),
    ],
)
def test_config_out_of_range_is_refused_by_name(fields: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SuiteCLIPConfig(**fields)
