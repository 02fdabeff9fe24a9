"""Names of sites and heads come from module paths, are unique, and can be chosen by globs."""

import diffusers
import pytest
from torch import nn

from diffmech.attention.sites import AttentionSite, HeadId, find_sites, head_ids, resolve_heads
from diffmech.errors import ConfigError, ModelError

CROSS_UNET = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
}
TRANSFORMER = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2, "sample_size": 8}


def names(model: nn.Module) -> list[str]:
    return [site.name for site in find_sites(model)]


class Projections(nn.Module):
    def __init__(self, heads: int | None = 2) -> None:
        super().__init__()
        self.to_q = nn.Linear(4, 4)
        if heads is not None:
            self.heads = heads


def test_unet_sites_are_named_by_stage_block_and_kind():
    expected = ["down1.0", "mid.0", "up0.0", "up0.1"]
    assert names(diffusers.UNet2DConditionModel(**CROSS_UNET)) == [
        f"{block}.{kind}" for block in expected for kind in ("self", "cross")
    ]


def test_block_index_appears_only_where_a_stack_holds_several_blocks():
    model = diffusers.UNet2DConditionModel(**CROSS_UNET, transformer_layers_per_block=(1, 2))
    assert "down1.0b1.self" in names(model)
    assert "down1.0.self" not in names(model)
    single = diffusers.UNet2DConditionModel(**CROSS_UNET, transformer_layers_per_block=1)
    assert not any("b0" in name for name in names(single))


def test_transformers_are_named_by_depth_and_kind():
    dit = diffusers.DiTTransformer2DModel(**TRANSFORMER, patch_size=2, out_channels=4, num_embeds_ada_norm=10)
    assert names(dit) == ["block00.self", "block01.self"]
    sd3 = diffusers.SD3Transformer2DModel(
        **TRANSFORMER,
        patch_size=2,
        out_channels=4,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        dual_attention_layers=(0,),
    )
    assert [(site.name, site.kind) for site in find_sites(sd3)] == [
        ("joint00", "joint"),
        ("block00.self2", "self"),
        ("joint01", "joint"),
    ]
    flux = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
    )
    assert {site.name: (site.kind, site.heads) for site in find_sites(flux)} == {
        "joint00": ("joint", 2),
        "single00": ("joint", 2),
        "single01": ("joint", 2),
    }


def test_a_name_does_not_depend_on_the_other_sites_of_the_model():
    model = diffusers.UNet2DConditionModel(**CROSS_UNET)
    before = {site.module_path: site.name for site in find_sites(model)}
    model.down_blocks[1].attentions = nn.ModuleList()
    after = {site.module_path: site.name for site in find_sites(model)}
    assert 0 < len(after) < len(before)
    assert after.items() <= before.items()


def test_modules_of_unknown_architectures_are_named_by_their_path():
    model = nn.ModuleDict({"reader": Projections(3), "cross_reader": Projections(2)})
    assert find_sites(model) == [
        AttentionSite("reader.self", "reader", "self", 3),
        AttentionSite("cross_reader.cross", "cross_reader", "cross", 2),
    ]


def test_two_modules_with_one_name_are_an_error():
    model = nn.Module()
    model.transformer_blocks = nn.ModuleList([nn.ModuleDict({"attn": Projections()})])
    model.blocks = nn.ModuleList([nn.ModuleDict({"attn": Projections()})])
    with pytest.raises(
        ModelError, match=r"transformer_blocks.0.attn, blocks.0.attn would share the name block00.self; rename"
    ):
        find_sites(model)


def test_a_query_projection_alone_does_not_make_a_site_before_it_is_seen_to_attend():
    assert find_sites(nn.ModuleDict({"odd": Projections(None)})) == []


def test_names_hold_nothing_that_arrays_globs_or_lists_of_heads_would_take_apart():
    blocks = nn.ModuleDict({"8x8/attn 1": Projections(2), "8x8/attn [2]": Projections(2)})
    sites = find_sites(nn.ModuleDict({"blocks": blocks}))
    assert [site.name for site in sites] == ["blocks.8x8_attn_1.self", "blocks.8x8_attn__2_.self"]
    assert [site.module_path for site in sites] == ["blocks.8x8/attn 1", "blocks.8x8/attn [2]"]
    for site in sites:
        assert resolve_heads([site.name, f"{site.name}.h01"], sites) == [HeadId(site.name, 0), HeadId(site.name, 1)]


def test_further_calls_of_a_module_are_sites_of_their_own():
    site = AttentionSite("mid.0.self", "mid_block.attentions.0", "self", 2)
    assert site.again(1) is site
    second = site.again(2)
    assert (second.name, second.module_path, second.call) == ("mid.0.self#2", site.module_path, 2)
    assert str(HeadId.parse(head_ids(second)[1])) == "mid.0.self#2.h01"


def test_head_ids_are_formatted_and_parsed_without_loss():
    site = AttentionSite("down1.0.self", "down_blocks.1.attentions.0", "self", 12)
    assert head_ids(site)[0] == "down1.0.self.h00"
    assert head_ids(site)[11] == "down1.0.self.h11"
    for text in (*head_ids(site), "joint07.h101"):
        assert str(HeadId.parse(text)) == text
    for wrong in ("down1.0.self", "down1.0.self.h3", "h03", "down1.0.self.h03 "):
        with pytest.raises(ConfigError, match="is not a head"):
            HeadId.parse(wrong)


SITES = [
    AttentionSite(f"{block}.{kind}", "", kind, 4)
    for block in ("down1.0", "down1.1", "mid.0")
    for kind in ("self", "cross")
]


def test_globs_choose_heads_once_and_in_model_order():
    assert [str(h) for h in resolve_heads(["mid.0.self.h01", "down1.*.self.h03", "down1.0.*.h03"], SITES)] == [
        "down1.0.self.h03",
        "down1.0.cross.h03",
        "down1.1.self.h03",
        "mid.0.self.h01",
    ]
    assert len(resolve_heads(["*.cross.*"], SITES)) == 12
    assert resolve_heads(["mid.0.cross"], SITES) == [HeadId("mid.0.cross", head) for head in range(4)]
    assert resolve_heads(["*"], SITES) == resolve_heads([f"*.h0{head}" for head in range(4)], SITES)


def test_an_unknown_head_is_answered_with_its_nearest_names():
    with pytest.raises(ConfigError, match=r"'mid.0.slef.h03'.*24 heads.*nearest: .*mid.0.self.h03"):
        resolve_heads(["mid.0.slef.h03"], SITES)
    with pytest.raises(ConfigError, match="the model has no attention"):
        resolve_heads(["mid.0.self"], [])


def test_text_joined_to_the_image_makes_attention_joint_whatever_tells_so():
    cogvideo = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, time_embed_dim=8, text_embed_dim=8
    )
    assert [(site.name, site.kind) for site in find_sites(cogvideo)] == [("joint00", "joint")]


def test_added_keys_in_a_softmax_of_their_own_leave_cross_attention_what_it_is():
    wan = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=16, num_layers=1, rope_max_seq_len=16, image_dim=8, added_kv_proj_dim=24,
    )  # fmt: skip
    assert names(wan) == ["block00.self", "block00.cross"]
