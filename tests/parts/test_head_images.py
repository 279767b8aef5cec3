"""Input pictures in the heads: positions of tokens, slots of channels, and what is refused."""

from __future__ import annotations

import pytest
import torch
from small_heads import (
    CHANNEL_HEADS,
    SMALL,
    TOKEN_HEADS,
    batch,
    cells,
    make,
    pictures,
    theirs,
    tokens,
)

from qk_lightning.parts.heads.positions import centred_positions, image_positions

SIZES = [((3, 2), (3, 2)), ((3, 4), (5, 2)), ((1, 1), (1, 1)), ((2, 6), (4, 3))]
FOUR = ("reference", "source", "reference", "reference")


@pytest.mark.parametrize("positions", [image_positions, centred_positions])
@pytest.mark.parametrize("scheme", ["shifted", "axis"])
@pytest.mark.parametrize(("target", "image"), SIZES)
def test_no_two_pictures_share_a_position(positions, scheme, target, image):
    ids = positions(target, image, FOUR, scheme)
    assert ids.shape == (target[0] * target[1] + 4 * image[0] * image[1], 3)
    assert len({tuple(row) for row in ids.tolist()}) == len(ids)


def test_an_axis_counts_the_pictures_and_leaves_rows_and_columns_local():
    ids = image_positions((1, 2), (2, 1), ("source", "reference"), "axis")
    assert ids.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 1, 0]]
    ids = centred_positions((3, 2), (1, 1), ("source",), "axis")
    assert ids[0].tolist() == [0, -2, -1] and ids[-1].tolist() == [1, -1, -1]


def test_centring_changes_no_distance_between_pictures():
    for scheme in ("shifted", "shared"):
        corner = image_positions((3, 4), (5, 2), FOUR, scheme)
        centred = centred_positions((3, 4), (5, 2), FOUR, scheme)
        assert (corner - centred == torch.tensor([0, 2, 2])).all()


@pytest.mark.parametrize("name", TOKEN_HEADS)
@pytest.mark.parametrize("scheme", ["shifted", "shared", "axis"])
@torch.no_grad()
def test_token_heads_take_pictures_of_any_size_in_every_scheme(name, scheme):
    head, inputs = make(name, positions=scheme), batch()
    alone = head(**inputs)
    image_latents = pictures(2, 3, 5)
    given = {"image_latents": image_latents, "roles": ("source", "reference")}
    both = head(**inputs, **given)
    assert both.shape == alone.shape and not torch.allclose(alone, both, atol=1e-5)
    swapped = {**given, "image_latents": image_latents.flip(1)}
    told_apart = not torch.allclose(head(**inputs, **swapped), both, atol=1e-5)
    assert told_apart is (scheme != "shared")
    renamed = {**given, "roles": ("reference", "source")}
    by_role = not torch.allclose(head(**inputs, **renamed), both, atol=1e-5)
    assert by_role is (scheme == "shifted")


@torch.no_grad()
def test_flux_with_an_axis_equals_kontext_by_hand():
    head, inputs, image_latents = make("flux", positions="axis"), batch(), pictures(1, 3, 3)
    grids = [(0, 4, 2), (1, 3, 3)]
    ids = [[n, i, j] for n, rows, columns in grids for i in range(rows) for j in range(columns)]
    output = theirs(head)(
        hidden_states=torch.cat([tokens(inputs["noisy_latents"]), tokens(image_latents[:, 0])], 1),
        encoder_hidden_states=inputs["condition"],
        pooled_projections=torch.zeros(2, 1),
        timestep=inputs["sigma"],
        img_ids=torch.tensor(ids).float(),
        txt_ids=torch.zeros(4, 3),
    ).sample
    velocity = head(**inputs, image_latents=image_latents, roles=("source",))
    torch.testing.assert_close(velocity, cells(output, 4, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(3, 5), (7, 2)])
@torch.no_grad()
def test_qwen_image_with_an_axis_equals_its_own_editing_by_hand(size):
    head, inputs, image_latents = make("qwen_image", positions="axis"), batch(), pictures(2, *size)
    sequence = [inputs["noisy_latents"], *image_latents.unbind(1)]
    output = theirs(head)(
        hidden_states=torch.cat([tokens(latents) for latents in sequence], 1),
        encoder_hidden_states=inputs["condition"],
        timestep=inputs["sigma"],
        img_shapes=[[(1, 4, 2), (1, *size), (1, *size)]] * 2,
    ).sample
    velocity = head(**inputs, image_latents=image_latents, roles=("source", "reference"))
    torch.testing.assert_close(velocity, cells(output, 4, 2), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", CHANNEL_HEADS)
@torch.no_grad()
def test_each_role_has_its_slot(name):
    head, inputs, image_latents = make(name, num_image_slots=3), batch(), pictures(3)
    assert head.image_entry == "channels" and head.model.config.in_channels == 20
    roles = ("reference", "source", "reference")
    entered = head.join(inputs["noisy_latents"], image_latents, roles)
    order = [inputs["noisy_latents"], *image_latents[:, [1, 0, 2]].unbind(1)]
    assert torch.equal(entered, torch.cat(order, 1))
    one = head.join(inputs["noisy_latents"], image_latents[:, :1], ("reference",))
    assert torch.equal(one[:, 10:15], image_latents[:, 0]) and not one[:, 5:10].any()
    source, reference = (
        head(**inputs, image_latents=image_latents[:, :1], roles=(role,))
        for role in ("source", "reference")
    )
    assert source.shape == (2, 5, 4, 2)
    assert not torch.allclose(source, head(**inputs), atol=1e-5)
    assert not torch.allclose(source, reference, atol=1e-5)


@pytest.mark.parametrize("name", CHANNEL_HEADS)
@pytest.mark.parametrize(
    ("slots", "roles", "said"),
    [
        (0, ("source",), "the head has 0; set head.num_image_slots"),
        (1, ("reference",), "need 2 slots .the first is the source's., the head has 1"),
        (2, ("source", "reference", "reference"), "need 3 slots"),
        (3, ("source", "source"), "more than one source"),
        (3, ("mask",), "'mask'.*expected source or reference"),
        (3, ("source", "reference", "reference"), "give one for each"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(name, slots, roles, said):
    head = make(name, num_image_slots=slots)
    num = 2 if said == "give one for each" else len(roles)
    with pytest.raises(ValueError, match=said):
        head(**batch(), image_latents=pictures(num), roles=roles)


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_token_heads_refuse_wrong_roles_too(name):
    for roles, said in (
        (("source", "source"), "2 sources"),
        (("source",), "give one for each"),
        (("source", "mask"), "expected source or reference"),
    ):
        with pytest.raises(ValueError, match=said):
            make(name)(**batch(), image_latents=pictures(2), roles=roles)


@pytest.mark.parametrize("name", CHANNEL_HEADS)
def test_pictures_of_another_size_do_not_fit_channels(name):
    head = make(name, num_image_slots=1)
    with pytest.raises(ValueError, match=r"\(2, 2\) cells for a target of \(4, 2\)"):
        head(**batch(), image_latents=pictures(1, 2, 2), roles=("source",))


@pytest.mark.parametrize("name", CHANNEL_HEADS)
@torch.no_grad()
def test_new_channels_start_at_zero_so_the_start_is_the_pretrained_model(name, tmp_path):
    plain = make(name)
    plain.export(tmp_path / "plain")
    torch.manual_seed(3)
    wide = type(plain)(path=str(tmp_path / "plain"), num_image_slots=2, latent_channels=5)
    given = {"image_latents": pictures(2), "roles": ("source", "reference")}
    assert not torch.allclose(wide(**batch(), **given), wide(**batch()), atol=1e-5)  # at random
    assert wide.load_base()
    expected = plain(**batch())
    torch.testing.assert_close(wide(**batch()), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(wide(**batch(), **given), expected, atol=1e-6, rtol=0)
    wide.model.get_submodule(wide.input_layer).weight[:, 5:] += 0.1
    moved = wide(**batch(), **given)
    wide.export(tmp_path / "wide")
    again = type(plain)(path=str(tmp_path / "wide"), latent_channels=5)
    assert again.load_base() and again.num_image_slots == 2  # the folder says so
    torch.testing.assert_close(again(**batch(), **given), moved)
    wider = make(name, num_image_slots=4)  # a later stage with more pictures
    wider.load_folder(tmp_path / "wide")
    torch.testing.assert_close(wider(**batch(), **given), moved, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="num_image_slots: 1, but .* has 2"):
        type(plain)(path=str(tmp_path / "wide"), num_image_slots=1, latent_channels=5)
    with pytest.raises(ValueError, match="do not fit"):
        make(name, num_image_slots=1).load_folder(tmp_path / "wide")


@pytest.mark.parametrize("name", CHANNEL_HEADS)
def test_lora_opens_the_input_layer_or_pictures_would_stay_hidden(name, tmp_path):
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    from qk_lightning.assembly.lora import merge_lora
    from qk_lightning.assembly.trainable import apply_trainable, trainable_state

    assert make(name).input_layer not in make(name).lora_targets
    head = make(name, num_image_slots=1)
    lora = OmegaConf.create({"head": {"lora": {"rank": 2, "alpha": None, "targets": []}}})
    apply_trainable({"head": head}, lora, seed=0)
    state = trainable_state(head)
    assert any(head.input_layer in key for key in state)
    with torch.no_grad():
        for value in state.values():
            value.normal_(std=0.1)
    stored = {key: value.detach().clone() for key, value in state.items()}
    metadata = {"lora": '{"rank": 2, "alpha": 2}'}
    save_file(stored, tmp_path / "lora.safetensors", metadata=metadata)
    plain = make(name, num_image_slots=1)
    assert merge_lora(plain, tmp_path / "lora.safetensors") == len(stored) // 2
    given = {**batch(), "image_latents": pictures(1), "roles": ("source",)}
    torch.testing.assert_close(plain(**given), head(**given), atol=1e-5, rtol=1e-4)


def test_every_head_says_how_pictures_enter():
    entries = {name: make(name).image_entry for name in SMALL}
    assert entries == dict.fromkeys(TOKEN_HEADS, "tokens") | dict.fromkeys(
        CHANNEL_HEADS, "channels"
    )
