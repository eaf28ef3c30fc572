"""DINO beside lightly's parts and a plain derivation, float32 within 1e-5 of the largest value."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from families import TINY_DINO, dino_inputs
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules.heads import DINOProjectionHead
from references import assert_equals_reference, randomise
from torch import Tensor, nn

from hf_vit_suite import SuiteDINOConfig, SuiteDINOForPreTraining, SuiteDINOModel, SuiteViTModel, preset_config
from hf_vit_suite.models.modeling_dino import ProjectionHead, koleo_loss

TEMPERATURE = 0.05


def build(**fields) -> SuiteDINOForPreTraining:
    """A tiny model whose teacher has other weights than the student, and whose centre is not zero."""
    model = randomise(SuiteDINOForPreTraining(SuiteDINOConfig(**{**TINY_DINO, **fields}))).train()
    model.center.logits.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def crops(images: int = 4) -> dict[str, Tensor]:
    """Two global and three local crops of random images."""
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(images, 2, 3, 32, 32, generator=generator),
        "local_pixel_values": torch.randn(images, 3, 3, 16, 16, generator=generator),
    }


def masks(images: int = 4) -> Tensor:
    """Some patches of some crops, none of the first crop."""
    chosen = torch.rand(images, 2, 16, generator=torch.Generator().manual_seed(2)) < 0.4
    chosen[0, 0] = False
    return chosen


def lightly_head(head: ProjectionHead, config: SuiteDINOConfig) -> DINOProjectionHead:
    """lightly's head with the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        reference = DINOProjectionHead(
            config.hidden_size,
            config.head_hidden_size,
            config.head_bottleneck_size,
            config.num_prototypes,
            batch_norm=config.head_batch_norm,
            norm_last_layer=not config.head_learned_gain,
        )
    for ours, theirs in zip(
        (layer for layer in head.layers if layer.state_dict()),
        (layer for layer in reference.layers if layer.state_dict()),
        strict=True,
    ):
        theirs.weight, theirs.bias = copy.deepcopy((ours.weight, ours.bias))
    reference.last_layer.load_state_dict({"weight_v": head.prototypes.direction, "weight_g": head.prototypes.gain})
    return reference.train()


@pytest.mark.parametrize("fields", [{}, {"head_batch_norm": True}, {"head_learned_gain": True}], ids=str)
def test_head_equals_lightlys(fields: dict):
    config = SuiteDINOConfig(**TINY_DINO, **fields)
    head = build(**fields).student_head
    reference = lightly_head(head, config)
    features = torch.randn(12, config.hidden_size)
    found, expected = head(features), reference(features)
    assert_equals_reference(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    pairs = [*zip(head.layers.parameters(), reference.layers.parameters(), strict=True)]
    pairs += [(head.prototypes.direction, reference.last_layer.weight_v)]
    pairs += [(head.prototypes.gain, reference.last_layer.weight_g)]
    for weight, other in pairs:
        assert weight.requires_grad == other.requires_grad
        if weight.requires_grad and not config.head_batch_norm:  # a bias in front of a batch norm learns noise
            assert_equals_reference(weight.grad, other.grad)


def whole_logits(model: SuiteDINOForPreTraining, inputs: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Teacher's and student's logits of each crop, from the parts of the model, nothing in chunks."""
    every = [*inputs["pixel_values"].unbind(1), *inputs["local_pixel_values"].unbind(1)]
    with torch.no_grad():
        teacher = [model.teacher_head(model.vit(crop).pooler_output) for crop in every[:2]]
    return teacher, [model.student_head(model.student(crop).pooler_output) for crop in every]


def test_loss_gradients_and_centre_equal_lightlys_of_every_crop_apart():
    model, inputs = build(head_learned_gain=True), crops()
    reference = DINOLoss(model.config.num_prototypes, TEMPERATURE, TEMPERATURE, 0)
    reference.center.copy_(model.center.logits)
    expected_model = copy.deepcopy(model)
    expected = reference(*whole_logits(expected_model, inputs))
    found = model(**inputs, teacher_temperature=TEMPERATURE).loss
    assert_equals_reference(found, expected)
    found.backward()
    expected.backward()
    for (name, weight), other in zip(model.named_parameters(), expected_model.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None) == name.startswith(("vit.", "teacher_head."))
        if weight.grad is not None and not name.endswith("attention.qkv.bias"):  # a key's bias has no gradient
            assert_equals_reference(weight.grad, other.grad, name=name)
    model.update_teacher(1.0)
    assert_equals_reference(model.center.logits, reference.center.flatten())


def test_global_crops_alone_are_compared_with_one_another():
    model, inputs = build(), crops()
    del inputs["local_pixel_values"]
    teacher, student = whole_logits(model, crops())
    reference = DINOLoss(model.config.num_prototypes, TEMPERATURE, TEMPERATURE, 0)
    reference.center.copy_(model.center.logits)
    found = model(**inputs, teacher_temperature=TEMPERATURE).loss
    assert_equals_reference(found, reference(teacher, student[:2]))


def test_koleo_equals_lightlys():
    features = torch.randn(9, 16, requires_grad=True)
    found, expected = koleo_loss(features), KoLeoLoss()(features)
    assert_equals_reference(found, expected)
    of_found, of_expected = (torch.autograd.grad(loss, features)[0] for loss in (found, expected))
    assert_equals_reference(of_found, of_expected)


def test_patch_loss_and_its_centre_equal_lightlys():
    model, inputs = build(patch_loss_weight=1.0, num_register_tokens=2), crops()
    model.patch_center.logits.normal_(std=0.1)
    reference = IBOTPatchLoss(model.config.num_prototypes, TEMPERATURE)
    reference.center.value.copy_(model.patch_center.logits)
    every, masked = inputs["pixel_values"].flatten(0, 1), masks().flatten(0, 1)
    teacher = model.teacher_head(model.vit(every).last_hidden_state[:, 3:][masked]).detach()
    student = model.student_head(model.student(every, bool_masked_pos=masked).last_hidden_state[:, 3:][masked])
    expected = reference(teacher, student, masked.unflatten(1, (4, 4)))
    outputs = model(**inputs, bool_masked_pos=masks(), teacher_temperature=TEMPERATURE)
    assert_equals_reference(outputs.patch_loss, expected)
    model.update_teacher(1.0)
    assert_equals_reference(model.patch_center.logits, reference.center.value.flatten())


def test_parts_of_the_loss_are_weighed():
    model, inputs = build(patch_loss_weight=0.5, koleo_weight=0.1), crops()
    outputs = model(**inputs, bool_masked_pos=masks())
    expected = outputs.class_loss + 0.1 * outputs.koleo_loss + 0.5 * outputs.patch_loss
    assert_equals_reference(outputs.loss, expected)
    tokens = model.student(inputs["pixel_values"].flatten(0, 1), bool_masked_pos=masks().flatten(0, 1)).pooler_output
    assert_equals_reference(outputs.koleo_loss, sum(KoLeoLoss()(tokens[crop::2]) for crop in range(2)))
    outputs.loss.backward()
    assert model.student.embeddings.mask_token.grad.abs().sum() > 0


def test_no_masked_patch_anywhere_is_no_patch_loss():
    model, inputs = build(patch_loss_weight=1.0), crops()
    outputs = model(**inputs, bool_masked_pos=torch.zeros(4, 2, 16, dtype=torch.bool))
    assert outputs.patch_loss == 0
    outputs.loss.backward()
    before = model.patch_center.logits.clone()
    model.update_teacher(0.5)
    assert torch.equal(model.patch_center.logits, before)


def test_sinkhorn_knopp_takes_the_place_of_the_centre():
    centred, balanced = build(), build(centering="sinkhorn_knopp")
    losses = []
    for model in (centred, balanced):
        for shift in (0.0, 1.0):
            model.center.logits += shift * torch.linspace(0, 1, model.config.num_prototypes)
            losses.append(model(**crops()).loss.item())
    assert losses[0] != losses[1]
    assert losses[2] == losses[3]


def test_three_steps_equal_a_plain_derivation_in_float64():
    """Algorithm 1 of the paper with everything held: targets, loss, AdamW, centre and average written out."""
    model = build(head_learned_gain=True, drop_path_rate=0.0)
    plain = copy.deepcopy(model).double()
    center = plain.center.logits.clone()
    student = dict(plain.named_parameters())
    learned = {name: weight for name, weight in student.items() if weight.requires_grad}
    # Epsilon well above the noise of float32, which 1e-8 would make steps of for weights without a gradient.
    rate, decay, betas, epsilon, momentum = 1e-3, 0.04, (0.9, 0.999), 1e-5, 0.9
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], rate, betas, epsilon, decay
    )
    first = {name: torch.zeros_like(weight) for name, weight in learned.items()}
    second = {name: torch.zeros_like(weight) for name, weight in learned.items()}
    for step in range(1, 4):
        inputs = {name: value + 0.1 * step for name, value in crops().items()}
        loss = model(**inputs, teacher_temperature=TEMPERATURE).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher(momentum)

        teacher, logits = whole_logits(plain, {name: value.double() for name, value in inputs.items()})
        terms = [
            -(((t - center) / TEMPERATURE).softmax(1) * (s / 0.1).log_softmax(1)).sum(1).mean()
            for i, t in enumerate(teacher)
            for j, s in enumerate(logits)
            if i != j
        ]
        expected = sum(terms) / len(terms)
        found = torch.autograd.grad(expected, list(learned.values()))
        assert_equals_reference(loss, expected.float())
        with torch.no_grad():
            for (name, weight), gradient in zip(learned.items(), found, strict=True):
                first[name] = betas[0] * first[name] + (1 - betas[0]) * gradient
                second[name] = betas[1] * second[name] + (1 - betas[1]) * gradient**2
                mean, square = first[name] / (1 - betas[0] ** step), second[name] / (1 - betas[1] ** step)
                weight.mul_(1 - rate * decay).sub_(rate * mean / (square.sqrt() + epsilon))
            center = 0.9 * center + 0.1 * torch.cat(teacher).mean(0)
            for name, weight in student.items():
                if name.startswith(("vit.", "teacher_head.")):
                    of_student = name.replace("vit.", "student.", 1).replace("teacher_head.", "student_head.", 1)
                    weight.mul_(momentum).add_((1 - momentum) * student[of_student])
    assert_equals_reference(model.center.logits, center.float())
    for name, weight in model.named_parameters():
        assert_equals_reference(weight, student[name].float(), tolerance=1e-4, name=name)


def test_accumulated_halves_equal_the_whole_batch():
    whole, inputs = build(), crops()
    halves = copy.deepcopy(whole)
    whole(**inputs).loss.backward()
    for half in range(2):
        part = {name: value[2 * half : 2 * half + 2] for name, value in inputs.items()}
        (halves(**part).loss / 2).backward()
    for (name, weight), other in zip(whole.named_parameters(), halves.parameters(), strict=True):
        if weight.grad is not None and not name.endswith("attention.qkv.bias"):
            assert_equals_reference(other.grad, weight.grad, name=name)
    for model in (whole, halves):
        model.update_teacher(0.9)
    assert_equals_reference(halves.center.logits, whole.center.logits)


def test_teacher_starts_as_the_student():
    model = SuiteDINOForPreTraining(SuiteDINOConfig(**TINY_DINO))
    for teacher, student in model.teacher_and_student():
        assert torch.equal(teacher, student)
    assert not any(weight.requires_grad for weight in (*model.vit.parameters(), *model.teacher_head.parameters()))


def test_training_from_a_backbone_starts_student_and_teacher_with_it(tmp_path):
    backbone = randomise(SuiteDINOModel(SuiteDINOConfig(**TINY_DINO)))
    backbone.save_pretrained(tmp_path)
    model = SuiteDINOForPreTraining.from_pretrained(tmp_path)
    for part in (model.vit, model.student):
        for found, expected in zip(part.parameters(), backbone.parameters(), strict=True):
            assert torch.equal(found, expected)
    for teacher, student in model.teacher_and_student():
        assert torch.equal(teacher, student)


def test_saved_student_is_not_replaced_by_the_teacher(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    reopened = SuiteDINOForPreTraining.from_pretrained(tmp_path)
    for (name, found), expected in zip(reopened.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(found, expected), name


def test_drop_path_acts_in_the_student_alone():
    model, inputs = build(drop_path_rate=0.9, hidden_dropout_prob=0.2), crops()
    assert model.student.training
    assert not model.vit.training
    teacher = [model(**inputs, output_hidden_states=True).hidden_states[-1] for _ in range(2)]
    assert torch.equal(*teacher)
    losses = {model(**inputs).loss.item() for _ in range(3)}
    assert len(losses) == 3


def test_evaluation_leaves_the_centre_alone():
    model = build().eval()
    before = model.center.logits.clone()
    model(**crops())
    model.update_teacher(1.0)
    assert torch.equal(model.center.logits, before)


def test_teacher_is_the_moving_average():
    model = build()
    before = [(teacher.clone(), student.clone()) for teacher, student in model.teacher_and_student()]
    model.update_teacher(0.996)
    for (teacher, student), (old, of_student) in zip(model.teacher_and_student(), before, strict=True):
        torch.testing.assert_close(teacher, 0.996 * old + 0.004 * of_student)
        assert torch.equal(student, of_student)


def test_statistics_come_when_asked_for():
    model = build()
    assert "teacher_entropy" not in model(**crops())
    outputs = model(**crops(), output_statistics=True)
    assert 0 < outputs.teacher_entropy < torch.tensor(model.config.num_prototypes).log()
    assert outputs.center_divergence > 0


def test_training_step_compiles_as_one_graph():
    torch.compiler.reset()
    model, inputs = build(), crops()
    expected_model = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    losses = []
    for run in (compiled, expected_model):
        loss = run(**inputs, output_statistics=True).loss
        loss.backward()
        losses.append(loss)
    assert_equals_reference(*losses)
    for one in (model, expected_model):
        one.update_teacher(0.9)
    assert_equals_reference(model.center.logits, expected_model.center.logits)
    for (name, weight), other in zip(model.named_parameters(), expected_model.parameters(), strict=True):
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_backbone_goes_on_as_a_plain_vision_transformer():
    config = SuiteDINOConfig(**TINY_DINO, num_register_tokens=2, layer_scale_init_value=0.1)
    backbone = randomise(SuiteDINOModel(config))
    plain = SuiteViTModel(config.encoder_config()).eval()
    plain.load_state_dict(backbone.state_dict())
    pixels = dino_inputs(backbone)["pixel_values"]
    assert_equals_reference(plain(pixels).pooler_output, backbone(pixels).pooler_output)
    assert config.encoder_config(drop_path_rate=0.1).drop_path_rate == 0.1


def test_presets_have_the_heads_of_the_published_checkpoints():
    small, base = preset_config("dino_vits16"), preset_config("dino_vitb16")
    with torch.device("meta"):
        head = ProjectionHead(small)
    assert sum(weight.numel() for weight in head.parameters()) == 22_352_128
    assert (small.head_learned_gain, base.head_learned_gain) == (True, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prototypes": 0}, "num_prototypes must be at least 1, got 0"),
        ({"student_temperature": 0.0}, "student_temperature must be above 0"),
        ({"center_momentum": 1.0}, "center_momentum must be above 0 and below 1"),
        ({"centering": "none"}, "centering must be one of center, sinkhorn_knopp, got 'none'"),
        ({"koleo_weight": -1.0}, "koleo_weight must not be negative"),
        ({"pooling": "mean"}, "pooling must be 'cls'"),
        ({"use_distillation_token": True}, "use_distillation_token False"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(fields: dict, message: str):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        SuiteDINOConfig(**{**TINY_DINO, **fields})


def test_inputs_that_cannot_be_compared_are_refused():
    model, inputs = build(), crops()
    with pytest.raises(ValueError, match=r"pixel_values must be \[batch, crops, channels, height, width\]"):
        model(inputs["pixel_values"][:, 0])
    with pytest.raises(ValueError, match="needs two global crops"):
        model(inputs["pixel_values"][:, :1])
    with pytest.raises(ValueError, match="needs bool_masked_pos"):
        build(patch_loss_weight=1.0)(**inputs)
    with pytest.raises(ValueError, match="KoLeo compares the images of a batch"):
        build(koleo_weight=0.1)(**crops(images=1))


def test_initial_weights_are_spread_as_the_papers():
    """Truncated normals of 0.02 in backbone and head, and torch's own linear layer for the prototypes."""
    head = SuiteDINOForPreTraining(SuiteDINOConfig(**{**TINY_DINO, "num_prototypes": 4096})).student_head
    reference = nn.Linear(16, 4096, bias=False).weight.detach()
    found = head.prototypes.direction.detach()
    assert found.abs().max() == pytest.approx(reference.abs().max().item(), rel=1e-3)
    assert found.std().item() == pytest.approx(reference.std().item(), rel=0.05)
    assert (head.prototypes.gain == 1).all()
    assert head.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not head.layers[0].bias.any()
    features = F.normalize(torch.randn(3, 16), dim=-1)
    assert head.prototypes(features).abs().max() <= 1
