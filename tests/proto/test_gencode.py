"""The checked-in gencode is that of the contract, and our words have its numbers."""

import shutil
import sys
from enum import IntEnum
from pathlib import Path

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from grpc_tools import protoc

from swaptier.v1 import swaptier_pb2 as pb
from swaptier_wire.types import LoadMode, Outcome, Reason

PROTO = Path(__file__).resolve().parents[2] / "proto"
CONTRACT = "swaptier/v1/swaptier.proto"
GENCODE = ("swaptier_pb2.py", "swaptier_pb2.pyi", "swaptier_pb2_grpc.py", "swaptier_pb2_grpc.pyi")


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract's gencode, written anew."""
    out = tmp_path_factory.mktemp("gencode")
    plugins = []
    for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        assert found, f"{name} is not installed: it comes with the dev extra"
        plugins.append(f"--plugin={name}={found}")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    assert protoc.main(["protoc", f"-I{PROTO}", *plugins, *outputs, CONTRACT]) == 0
    return out / "swaptier/v1"


@pytest.mark.parametrize("name", GENCODE)
def test_gencode_is_what_the_contract_generates(regenerated: Path, name: str) -> None:
    """Whoever changes the contract regenerates."""
    fresh = (regenerated / name).read_text()
    kept = (PROTO / "swaptier/v1" / name).read_text()
    assert fresh == kept, f"proto/swaptier/v1/{name} is stale: run `make proto`"


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (LoadMode, pb.LoadMode, "LOAD_MODE_"),
        (Outcome, pb.Outcome, "OUTCOME_"),
        (Reason, pb.Reason, "REASON_"),
    ],
)
def test_our_words_have_the_numbers_of_the_contract(ours: type[IntEnum], theirs: EnumTypeWrapper, prefix: str) -> None:
    """A number of the contract without a word of ours, or the other way round, would travel as another one."""
    numbers = {name.removeprefix(prefix): number for name, number in theirs.items()}
    unspecified = numbers.pop("UNSPECIFIED")
    words = {word.name: word.value for word in ours}
    assert words.pop("NONE", 0) == unspecified == 0
    assert words == numbers
