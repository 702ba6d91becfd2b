"""Every architecture in every form: the loaded model computes what transformers computes, whatever the padding; heads and their origin."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_cases import SIZES, config, folder_of, saved, tiny
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from apet.errors import MissingInput, UsageError
from apet.methods import make_tunable, tokens_taken
from apet.methods.tunable_model import classification_head
from apet.models.forms import FORMS
from apet.models.ladder import ladder_tokenizer
from apet.models.loading import fingerprint, load_model
from apet.scoring import scorer_of
from apet.tasks import TASKS

HEADED = [kind for kind in SIZES if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES]
TASK, PAIRS = TASKS["mini-review"], TASKS["mini-nli"]
TEXTS = ("a lovely film", "a horrible , sad and very long story", "fun", "it is great")
REVIEWS = [{"sentence": text, "label": i % 2} for i, text in enumerate(TEXTS)]
READ_AS = {"gpt2": "bloom", "llama": "bloom", "opt": "bloom", "t5": "t5", "bart": "t5"}


def transformers_own(kind: str, form: str, **changes: Any) -> Any:
    auto = getattr(transformers, FORMS[form][0])
    return auto.from_pretrained(folder_of(kind), attn_implementation="eager", dtype=torch.float32, **changes).eval()


def asked(model: Any, form: str, scorer: Any, item: dict[str, Any]) -> Tensor:
    """Return the logits (C,) of one text by transformers' own forward pass, without padding and without a mask."""
    ids = torch.tensor([item["input_ids"]])
    if form == "head":
        return model(input_ids=ids).logits[0]
    if form == "encoder-decoder":
        return model(input_ids=ids, decoder_input_ids=torch.tensor([scorer.prefix])).logits[0, -1, scorer.label_ids]
    place = item["input_ids"].index(scorer.tokenizer.pretrained.mask_token_id) if form == "masked" else -1
    return model(input_ids=ids).logits[0, place, scorer.label_ids]


@pytest.mark.parametrize(("kind", "classes"), [*((kind, None) for kind in SIZES), *((kind, 2) for kind in HEADED)])
@torch.no_grad()
def test_logits_are_those_of_transformers_for_each_text_alone(kind: str, classes: int | None) -> None:
    loaded = tiny(kind, classes)
    own = transformers_own(kind, loaded.form, **({} if classes is None else {"num_labels": classes}))
    for name in getattr(loaded.model, "drawn", ()):
        own.get_parameter(name).copy_(loaded.model.get_parameter(name))
    if not own.config.is_encoder_decoder:
        own.config.get_text_config().pad_token_id = None  # a causal classifier then reads the last position
    scorer = scorer_of(loaded, TASK)
    alone = torch.stack([asked(own, loaded.form, scorer, item) for item in scorer.encode(REVIEWS)])
    found = torch.cat([scorer.logits(loaded.model, batch) for batch in scorer.batches(REVIEWS, len(REVIEWS))])
    assert alone.std(0).min() > 1e-5, "the logits depend on the text"
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5 * alone.abs().max().item())
    with torch.no_grad():
        ids = torch.tensor([scorer.encode(REVIEWS[1:2])[0]["input_ids"]])
        more = {"decoder_input_ids": torch.tensor([[0, 5, 6]])} if loaded.form == "encoder-decoder" else {}
        whole, expected = loaded.model(input_ids=ids, **more).logits, own(input_ids=ids, **more).logits
    torch.testing.assert_close(whole, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "bert", "bart", "mt5"])
@torch.no_grad()
def test_tied_embeddings_are_one_tensor_and_untied_ones_two(kind: str, tied: bool, tmp_path: Path) -> None:
    loaded = load_model(str(saved(kind, tmp_path, tie_word_embeddings=tied)))
    model: Any = loaded.model
    own = getattr(transformers, FORMS[loaded.form][0]).from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert (own.get_input_embeddings().weight is own.get_output_embeddings().weight) == (tied or kind == "mt5")  # always tied there
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (tied or kind == "mt5")
    assert loaded.parameters == sum({id(p): p.numel() for p in own.parameters()}.values())
    ids = torch.tensor([[5, 60, 700, 1]])
    more = {"decoder_input_ids": ids} if loaded.form == "encoder-decoder" else {}
    expected = own(input_ids=ids, **more).logits
    torch.testing.assert_close(model(input_ids=ids, **more).logits, expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["llama", "bart", "t5", "roberta"])
@torch.no_grad()
def test_a_pair_is_read_as_the_tokenizer_joins_it(kind: str) -> None:
    loaded = tiny(kind, 3)
    scorer = scorer_of(loaded, PAIRS)
    examples = [{"premise": "a man is here", "hypothesis": "he is", "label": 0}, {"premise": "no", "hypothesis": "a", "label": 1}]
    joined = [loaded.tokenizer(e["premise"], e["hypothesis"], return_tensors="pt", return_token_type_ids=False) for e in examples]
    expected = torch.cat([loaded.model(**inputs).logits for inputs in joined])
    (batch,) = scorer.batches(examples, 2)
    torch.testing.assert_close(scorer.logits(loaded.model, batch), expected, rtol=1e-5, atol=1e-6)


# Checkpoints without a language-model head


def put(kind: str, class_name: str, folder: Path, **changes: Any) -> Any:
    """Save a random model of the class in `folder`, with the ladder's tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = getattr(transformers, class_name)(config(kind, **changes)).eval()
    model.save_pretrained(folder)
    ladder_tokenizer(READ_AS.get(kind, "bert")).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("kind", "class_name"),
    [
        ("bert", "BertModel"), ("roberta", "RobertaModel"), ("mpnet", "MPNetModel"), ("distilbert", "DistilBertModel"),
        ("electra", "ElectraForPreTraining"), ("deberta-v2", "DebertaV2Model"), ("llama", "LlamaModel"),
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_model_without_language_model_head_gets_a_classification_head(kind: str, class_name: str, tmp_path: Path) -> None:
    bare = put(kind, class_name, tmp_path)
    first, again, headed = load_model(str(tmp_path)), load_model(str(tmp_path)), load_model(str(tmp_path), classes=2)
    assert (first.form, headed.form) == ("bare", "head") and first.fingerprint == again.fingerprint
    base, ids = getattr(bare, bare.base_model_prefix, bare), torch.tensor([[3, 40, 41, 4]])
    found: Any = headed.model
    torch.testing.assert_close(found.base_model(ids)[0], base(ids)[0], rtol=1e-6, atol=1e-6)
    pooled = {name for name, _ in found.named_parameters() if ".pooler." in name}
    assert pooled == ({"bert.pooler.dense.weight", "bert.pooler.dense.bias"} if kind == "bert" else set())
    assert not pooled & set(classification_head(found)), "a pooler that the checkpoint holds belongs to the model"


def test_a_pooler_that_the_checkpoint_lacks_belongs_to_the_head(tmp_path: Path) -> None:
    model = transformers.BertModel(config("bert"), add_pooling_layer=False)
    model.save_pretrained(tmp_path)
    ladder_tokenizer("bert").save_pretrained(tmp_path)
    assert "bert.pooler.dense.weight" in classification_head(load_model(str(tmp_path), classes=2).model)


@pytest.mark.parametrize(
    ("kind", "class_name", "own"),
    [
        ("bert", "BertForSequenceClassification", {"classifier.weight", "classifier.bias"}),
        ("roberta", "RobertaForSequenceClassification", {"classifier.out_proj.weight", "classifier.out_proj.bias"}),
        ("gpt2", "GPT2ForSequenceClassification", {"score.weight"}),
        ("llama", "LlamaForSequenceClassification", {"score.weight"}),
        ("bart", "BartForSequenceClassification", {"classification_head.out_proj.weight", "classification_head.out_proj.bias"}),
        ("t5", "T5ForSequenceClassification", {"classification_head.out_proj.weight", "classification_head.out_proj.bias"}),
        ("xlnet", "XLNetForSequenceClassification", {"logits_proj.weight", "logits_proj.bias"}),
        ("xlm", "XLMForSequenceClassification", {"sequence_summary.summary.weight", "sequence_summary.summary.bias"}),
    ],
)
def test_a_saved_classifier_is_kept_if_its_classes_fit_and_else_drawn_anew(kind: str, class_name: str, own: set, tmp_path: Path) -> None:
    classifier = put(kind, class_name, tmp_path, num_labels=2)
    kept, other = load_model(str(tmp_path), classes=2), load_model(str(tmp_path), classes=3)
    assert kept.fingerprint == fingerprint(classifier)
    assert own <= set(classification_head(kept.model)) and load_model(str(tmp_path)).form == "bare"
    assert other.model.drawn == own and len(other.model.get_parameter(min(own))) == 3  # pyright: ignore[reportArgumentType]
    assert other.fingerprint == load_model(str(tmp_path), classes=3).fingerprint


def test_an_encoder_of_t5_alone_is_refused(tmp_path: Path) -> None:
    put("t5", "T5EncoderModel", tmp_path)
    for classes in (None, 2):
        with pytest.raises(UsageError, match="is the encoder of a t5 model alone, for which transformers has neither words nor classes"):
            load_model(str(tmp_path), classes=classes)


def test_a_model_without_a_layer_is_incomplete_not_bare(tmp_path: Path) -> None:
    put("bert", "BertModel", tmp_path, num_hidden_layers=1)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    with pytest.raises(MissingInput, match=r"lacks weights of a bert model \(masked\): bert.encoder.layer.1"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("kind", ["mamba", "pegasus"])
def test_an_architecture_without_classifier_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match=f"is a {kind} model, for which transformers has no sequence classifier"):
        tiny(kind, 2)


# The position that a head reads


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom"])  # rotary, learned and ALiBi positions
@torch.no_grad()
def test_a_causal_head_behind_a_prompt_reads_the_last_token(kind: str) -> None:
    loaded = tiny(kind, 2)
    scorer = scorer_of(loaded, TASK, reserve=tokens_taken("prompt", loaded.model))
    base: Any = loaded.model
    mounted = make_tunable("prompt", base)
    for parameter in mounted.trainable.values():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    prompt = mounted.model.get_prompt(1)  # pyright: ignore[reportCallIssue]
    embedded = [base.get_input_embeddings()(torch.tensor([item["input_ids"]])) for item in scorer.encode(REVIEWS)]
    states = [base.base_model(inputs_embeds=torch.cat([prompt, text], dim=1))[0][:, -1] for text in embedded]
    found = torch.cat([scorer.logits(mounted.model, batch) for batch in scorer.batches(REVIEWS, 4)])
    torch.testing.assert_close(found, base.score(torch.cat(states)), rtol=1e-4, atol=1e-5)
    assert len(mounted.head) == 1 and mounted.k_head == 64


def test_a_head_on_an_encoder_decoder_refuses_virtual_tokens() -> None:
    with pytest.raises(UsageError, match="classification head of .*, an encoder-decoder, cannot read virtual tokens"):
        scorer_of(tiny("bart", 2), TASK, reserve=100)


def test_a_causal_head_needs_a_padding_or_an_end_token(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=ladder_tokenizer("bloom").backend_tokenizer)
    tokenizer.save_pretrained(folder)
    with pytest.raises(UsageError, match="neither a padding nor an end token, so its classification head cannot find the last token"):
        scorer_of(load_model(str(folder), classes=2), TASK)


def test_an_encoder_decoders_head_needs_an_end_token_after_the_text(tmp_path: Path) -> None:
    folder = saved("bart", tmp_path, eos_token_id=7)
    with pytest.raises(UsageError, match=r"reads the end token \(eos_token_id 7 in config.json\), which its tokenizer does not put"):
        scorer_of(load_model(str(folder), classes=2), TASK)
