import traceback
from pathlib import Path

import pytest

from jobs.config import AnonymizeConfig
from jobs.errors import ConfigError
from jobs.train.config import TrainConfig
from keyanon_core.priors import load_prior
from keyanon_core.procedure import EMBEDDED, EMBEDDED_CONDITIONING, INVERSIONS, UNDECLARED_MIN_STEPS

PLACES = {"photos": "p", "output": "o", "keystore": "k"}


def test_options_win_over_the_yaml_file_and_none_does_not(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("photos: p\noutput: o\nkeystore: k\nsteps: 5\nfidelity: lossless\n")
    config = AnonymizeConfig.load(path, {"steps": 7, "fidelity": None})
    assert (config.steps, config.fidelity) == (7, "lossless")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepps: 5", "stepps"),
        ("steps: 0", "steps"),
        ("- a list", "setting: value"),
        ("a: [", "YAML"),
        ("x: !!python/object:os.x {}", "YAML"),
    ],
)
def test_a_bad_file_is_refused_by_the_name_of_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        AnonymizeConfig.load(path, PLACES)


def test_a_missing_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="keystore"):
        AnonymizeConfig.load(None, {"photos": "p", "output": "o"})


def test_only_settings_that_change_results_change_the_digest() -> None:
    base = AnonymizeConfig.load(None, PLACES)
    layout = {"anonymizer_actors": 3, "pictures_per_task": 2, "check_every": 7, "device": "cuda:1"}
    assert AnonymizeConfig.load(None, {**PLACES, **layout}).digest() == base.digest()
    for change in (
        {"steps": 9},
        {"fidelity": "image", "output_format": "png"},
        {"regions": ["nose"]},
        {"no_face": "pass"},
        {"face_batch": 4},
    ):
        assert AnonymizeConfig.load(None, {**PLACES, **change}).digest() != base.digest()


def test_fidelity_image_needs_a_lossless_format_of_the_users_choice() -> None:
    assert AnonymizeConfig.load(None, PLACES).output_format == "same"
    with pytest.raises(ConfigError, match="png or webp instead of same"):
        AnonymizeConfig.load(None, {**PLACES, "fidelity": "image"})
    with pytest.raises(ConfigError, match="png or webp instead of same"):
        AnonymizeConfig.load(None, {**PLACES, "fidelity": "image", "prior": "some/where"})
    with pytest.raises(ConfigError, match="png or webp instead of jpeg"):
        AnonymizeConfig.load(None, {**PLACES, "fidelity": "image", "output_format": "jpeg"})
    AnonymizeConfig.load(None, {**PLACES, "fidelity": "image", "output_format": "webp"})


@pytest.mark.parametrize("output_format", ["same", "png", "webp", "jpeg"])
def test_fidelity_auto_takes_every_format_and_no_method_that_brings_no_face_back(output_format: str) -> None:
    chosen = {**PLACES, "fidelity": "auto", "output_format": output_format}
    assert AnonymizeConfig.load(None, chosen).settings().fidelity == "auto"
    with pytest.raises(ConfigError, match=r"fidelity auto .* method paper"):
        AnonymizeConfig.load(None, {**chosen, "method": "paper", "prior": "some/where"})
    with pytest.raises(ConfigError, match="leave out fidelity auto"):
        AnonymizeConfig.load(None, {"photos": "p", "output": "o", "keys": "discard", "fidelity": "auto"})


def test_consistent_pseudonyms_have_a_share_a_finer_sidecar_and_say_so() -> None:
    asked = {**PLACES, "pseudonyms": "consistent", "subject_column": "who"}
    config = AnonymizeConfig.load(None, asked)
    assert (config.payload_share, round(config.sidecar_bits, 1)) == (0.2, 13.8)
    assert config.settings().procedure.payload_share == 0.2 and "payload share 0.2" in str(config.settings().procedure)
    assert AnonymizeConfig.model_validate(config.model_dump()) == config
    assert AnonymizeConfig.load(None, {**asked, "payload_share": 0.5}).sidecar_bits == 12.5
    assert AnonymizeConfig.load(None, {**asked, "sidecar_bits": 12.0}).sidecar_bits == 12.0
    assert AnonymizeConfig.load(None, PLACES).settings().payload_share == 1.0
    digests = {AnonymizeConfig.load(None, {**asked, "payload_share": share}).digest() for share in (0.2, 0.3)}
    assert len(digests | {AnonymizeConfig.load(None, {**PLACES, "subject_column": "who"}).digest()}) == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"subject_column": None}, "say whose picture each is: subject_column of Parquet, subjects"),
        ({"pseudonyms": "none", "payload_share": 0.2}, "payload_share is of pseudonyms consistent"),
        ({"payload_share": 0.04}, "payload_share"),
        ({"payload_share": 1}, "payload_share"),
        ({"payload_share": "much"}, "payload_share"),
        ({"keystore": None, "keys": "discard"}, "permanent_column"),
        ({"keystore": None, "ingest_key": "key", "inbox": "in"}, "with a token_file of the role pseudonyms"),
        ({"method": "paper-inpaint"}, "not with paper-inpaint"),
        ({"transform": "sign"}, "not with exact and sign"),
        ({"fidelity": "auto"}, "choose latent or lossless"),
    ],
)
def test_pseudonyms_that_could_not_be_kept_or_would_show_a_face_are_refused(
    changes: dict[str, object], told: str
) -> None:
    asked = {**PLACES, "pseudonyms": "consistent", "subject_column": "who", **changes}
    with pytest.raises(ConfigError, match=told):
        AnonymizeConfig.load(None, asked)


def test_the_data_set_is_named_after_the_photos(tmp_path: Path) -> None:
    assert AnonymizeConfig.load(None, {**PLACES, "photos": tmp_path / "holiday"}).dataset == "holiday"
    assert AnonymizeConfig.load(None, {**PLACES, "photos": "x/data.parquet"}).dataset == "data"
    assert AnonymizeConfig.load(None, {**PLACES, "dataset": "mine"}).dataset == "mine"


@pytest.mark.parametrize("inversion", INVERSIONS)
def test_steps_that_recovery_could_not_invert_are_refused_unless_the_source_is_stored(inversion: str) -> None:
    least = UNDECLARED_MIN_STEPS[inversion]
    assert AnonymizeConfig.load(None, {**PLACES, "inversion": inversion, "steps": least}).steps == least
    with pytest.raises(ConfigError, match="can not be inverted"):
        AnonymizeConfig.load(None, {**PLACES, "inversion": inversion, "steps": least - 1})
    for change in ({"fidelity": "lossless"}, {"method": "paper-inpaint"}):
        assert AnonymizeConfig.load(None, {**PLACES, "steps": 2, **change}).steps == 2


def test_what_another_prior_needs_is_left_to_its_declaration() -> None:
    assert AnonymizeConfig.load(None, {**PLACES, "prior": "some/directory", "steps": 2}).steps == 2


@pytest.mark.parametrize(
    ("asked", "inversion", "steps"),
    [
        ({}, "none", 4),
        ({"fidelity": "lossless"}, "none", 4),
        ({"fidelity": "image", "output_format": "png"}, "none", 4),
        ({"transform": "sign"}, "ddim", 12),
        ({"method": "paper", "prior": "some/where"}, "ddim", 50),
        ({"method": "paper-inpaint"}, "ddim", 12),
        ({"inversion": "ddim"}, "ddim", 12),
        ({"inversion": "ddim", "fidelity": "image", "output_format": "png"}, "ddim", 12),
        ({"steps": 9}, "none", 9),
        ({"inversion": "ddim", "steps": 9}, "ddim", 9),
    ],
)
def test_the_inversion_and_its_steps_are_chosen_where_they_are_not_given_and_said(
    asked: dict[str, object], inversion: str, steps: int
) -> None:
    config = AnonymizeConfig.load(None, {**PLACES, **asked})
    assert (config.inversion, config.steps) == (inversion, steps)
    assert (config.to_json()["inversion"], config.to_json()["steps"]) == (inversion, steps)
    procedure = config.settings().procedure
    assert (procedure.inversion, procedure.steps) == (inversion, steps)
    assert AnonymizeConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(("method", "transform"), [("exact", "rotation"), ("paper", "sign"), ("paper-inpaint", "sign")])
def test_the_transform_is_the_methods_own_where_it_is_not_given(method: str, transform: str) -> None:
    asked = {**PLACES, "prior": "some/where", "method": method}
    assert AnonymizeConfig.load(None, asked).transform == transform
    assert AnonymizeConfig.load(None, {**asked, "transform": "rotation"}).transform == "rotation"


def test_method_paper_is_not_for_the_embedded_prior_and_says_which_is() -> None:
    assert load_prior(EMBEDDED).conditioning == EMBEDDED_CONDITIONING
    with pytest.raises(ConfigError, match=r"method paper is not for prior embedded.* use method paper-inpaint"):
        AnonymizeConfig.load(None, {**PLACES, "method": "paper"})


@pytest.mark.parametrize("asked", [{"transform": "sign"}, {"method": "paper-inpaint"}])
def test_a_face_is_never_keyed_without_inversion_by_what_would_show_it(asked: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="dense rotation"):
        AnonymizeConfig.load(None, {**PLACES, **asked, "inversion": "none"})


def test_the_first_try_of_the_way_back_can_not_be_switched_off() -> None:
    with pytest.raises(ConfigError, match="check_every"):
        AnonymizeConfig.load(None, {**PLACES, "check_every": 0})


@pytest.mark.parametrize("output", ["s3://bucket/out", "s3:/bucket/out", Path("s3:/bucket/out"), "gs://bucket/out"])
def test_a_prior_and_a_keystore_never_go_to_a_folder_called_s3(output: str | Path) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.load(None, {"photos": "p", "output": output})
    with pytest.raises(ConfigError):
        AnonymizeConfig.load(None, {"photos": "p", "output": "out", "keystore": output})


def test_a_secret_in_a_setting_is_neither_kept_nor_shown() -> None:
    for setting in ("photos", "output", "inbox"):
        keys = {"ingest_key": "key"} if setting == "inbox" else {"keystore": "k"}
        places = {"photos": "p", "output": "out", **keys, setting: "s3://AKIA:wJalrXUtn@bucket/x"}
        with pytest.raises(ConfigError, match="credentials do not belong in a URI") as raised:
            AnonymizeConfig.load(None, places)
        shown = "".join(traceback.format_exception(raised.value))
        assert "wJalrXUtn" not in shown and "AKIA" not in shown
    with pytest.raises(ConfigError, match="credentials"):
        AnonymizeConfig.load(None, {"photos": "p", "output": "out", "keystore": "k", "endpoint_url": "http://a:b@host"})


@pytest.mark.parametrize(
    "url",
    ["https://u:kat1_x@host", "https://kat1_x@host", "https://host?token=kat1_x", "https://host#kat1_x", "https://"],
)
def test_the_address_of_a_served_keystore_holds_no_token(url: str) -> None:
    places = {"photos": "p", "output": "out", "ingest_key": "key", "token_file": "token"}
    with pytest.raises(ConfigError, match="--token-file") as raised:
        AnonymizeConfig.load(None, {**places, "inbox": url})
    assert "kat1_x" not in "".join(traceback.format_exception(raised.value))
    with pytest.raises(ConfigError, match="can not be written"):  # nor is anything else served so
        AnonymizeConfig.load(None, {**places, "inbox": "https://host", "output": "https://host/out"})


PIN = "sha256=" + 32 * "aB"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://kat1_x:p@host/key", "nothing secret"),
        (f"https://host/key?sig=kat1_x#{PIN}", "nothing secret"),
        (f"s3://bucket/key?sig=kat1_x#{PIN}", "credentials"),
        ("https://host/key", "needs a pin"),
        ("https://host/key#kat1_x", "needs a pin"),
        (f"https://host/key#{PIN}0", "needs a pin"),
        ("s3://bucket/key", "needs a pin"),
        (f"s3://bucket#{PIN}", "is a bucket"),
        (f"http://host/key#{PIN}", "for this machine only"),
        (f"gs://bucket/key#{PIN}", "give a file"),
    ],
)
def test_an_ingest_key_from_elsewhere_has_a_pin_and_no_secret(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"ingest_key: .*{message}") as raised:
        AnonymizeConfig.load(None, {"photos": "p", "output": "out", "inbox": "i", "ingest_key": address})
    assert "kat1_x" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("address", ["https://host:8443/v1/ingest-key", "http://[::1]:9/k", "s3://bucket/deep/key"])
def test_the_pin_of_an_ingest_key_stays_with_its_address(address: str, tmp_path: Path) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(f"photos: p\noutput: out\ninbox: i\ningest_key: {address}#{PIN}\n")
    config = AnonymizeConfig.load(settings)
    assert config.ingest_key == f"{address}#{PIN.lower()}"
    assert AnonymizeConfig.model_validate_json(config.model_dump_json()) == config


def test_a_token_file_goes_with_a_served_inbox_and_it_with_one() -> None:
    places = {"photos": "p", "output": "out", "ingest_key": "key"}
    config = AnonymizeConfig.load(None, {**places, "inbox": "https://host:8443/", "token_file": "token"})
    assert (config.inbox, config.token_file) == ("https://host:8443", Path("token"))
    assert AnonymizeConfig.model_validate_json(config.model_dump_json()) == config
    for wrong in ({"inbox": "https://host"}, {"inbox": "folder", "token_file": "token"}):
        with pytest.raises(ConfigError, match="token_file goes with"):
            AnonymizeConfig.load(None, {**places, **wrong})
    with pytest.raises(ConfigError, match="token_file goes with"):
        AnonymizeConfig.load(None, {**PLACES, "token_file": "token"})


@pytest.mark.parametrize("output", ["o", "s3://bucket/out"])
def test_settings_come_back_from_json(output: str) -> None:
    config = AnonymizeConfig.load(None, {**PLACES, "output": output})
    assert AnonymizeConfig.model_validate_json(config.model_dump_json()) == config
    assert isinstance(config.output, str) == output.startswith("s3:")


def test_a_run_over_clips_has_a_pseudonym_for_each_track_and_what_goes_with_it() -> None:
    config = AnonymizeConfig.load(None, {**PLACES, "steps": 7, "subjects": "who.csv", "audio": "keep"}).over_clips()
    assert (config.pseudonyms, config.has_pseudonyms, config.steps, config.audio) == ("tracks", True, 7, "keep")
    consistent = AnonymizeConfig.load(None, {**PLACES, "pseudonyms": "consistent", "subjects": "who.csv"})
    assert (config.payload_share, config.sidecar_bits) == (consistent.payload_share, consistent.sidecar_bits)
    chosen = AnonymizeConfig.load(None, {**PLACES, "pseudonyms": "tracks", "payload_share": 0.5, "sidecar_bits": 12})
    assert (chosen.over_clips().payload_share, chosen.over_clips().sidecar_bits) == (0.5, 12)


def test_a_run_over_clips_goes_on_with_what_its_manifest_says() -> None:
    config = AnonymizeConfig.load(None, {**PLACES, "payload_share": None}).over_clips()
    recorded = AnonymizeConfig.load(None, {**config.to_json(), "audio": "keep"})
    assert recorded.over_clips().digest() == config.over_clips().digest() == config.digest()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"pseudonyms": "consistent", "subjects": "who.csv"}, "leave out pseudonyms, faces and output_format"),
        ({"faces": "given", "boxes": "boxes.csv"}, "leave out pseudonyms, faces and output_format"),
        ({"faces": "aligned"}, "leave out pseudonyms, faces and output_format"),
        ({"output_format": "png"}, "leave out pseudonyms, faces and output_format"),
        ({"fidelity": "image", "output_format": "png"}, "leave out pseudonyms, faces and output_format"),
        ({"fidelity": "auto"}, "fidelity"),
        ({"keystore": None, "keys": "discard"}, "keys discard has none"),
        ({"keystore": None, "ingest_key": "key", "inbox": "folder"}, "the inbox folder answers nothing"),
    ],
)
def test_a_run_over_clips_refuses_what_is_of_pictures(setting: dict[str, object], message: str) -> None:
    config = AnonymizeConfig.load(None, {**PLACES, **setting})
    with pytest.raises(ConfigError, match=message) as raised:
        config.over_clips()
    assert "\n" not in str(raised.value)
