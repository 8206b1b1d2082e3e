from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from typing import Annotated

import pytest
from pydantic import Field

from synthaug.changes import replace
from synthaug.settings import NotKeyed, OneOf, UserError, from_json, keyed, seed_of, settings, to_json


@settings
class Animal(ABC):
    age: Annotated[int, Field(ge=0)] = 1

    @abstractmethod
    def noise(self) -> str: ...


@settings
class Dog(Animal):
    loud: bool = True

    def noise(self) -> str:
        return "woof"


@settings
class Cat(Animal):
    loud: bool = True

    def noise(self) -> str:
        return "miaow"


@settings
class Box:
    width: float = 1.0


@settings(kw_only=True)
class Farm:
    name: str
    guard: OneOf[Animal] | None = None
    herd: tuple[OneOf[Animal], ...] = ()
    barn: Box = Box()
    road: NotKeyed[str] = "here"


def test_subclasses_survive_json() -> None:
    farm = Farm(name="a", guard=Dog(age=3), herd=(Cat(), Dog(loud=False)))
    again = from_json(Farm, json.loads(json.dumps(to_json(farm))))
    assert again == farm
    assert type(again.guard) is Dog and [type(a) for a in again.herd] == [Cat, Dog]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "a", "gaurd": None}, "gaurd: no such setting of Farm; did you mean guard?"),
        ({"name": "a", "guard": {"kind": "Dog", "lod": 1}}, "guard.lod: no such setting of Dog; did you mean loud?"),
        ({"name": "a", "guard": {"kind": "Dog", "age": -1}}, "guard.age: Input should be greater than or equal to 0"),
        ({"name": "a", "guard": "Dug"}, "guard: no Animal is called 'Dug'; did you mean Dog?"),
        ({"name": "a", "guard": {"age": 1}}, 'guard: needs "kind", one of Cat, Dog'),
        ({"name": "a", "guard": {"kind": "os:path"}}, "guard: os:path is no Animal"),
        ({"name": "a", "guard": {"kind": "no.such:Thing"}}, "guard: there is no class 'no.such:Thing'"),
        ({"name": "a", "barn": {"widht": 1}}, "barn.widht: no such setting of Box; did you mean width?"),
        ({"name": "a", "herd": [{"kind": "Cat", "age": "old"}]}, "herd.0.age: Input should be a valid integer"),
        ({}, "name: Field required"),
        ({"name": "a", "barn": {"width": float("nan")}}, "barn.width: Input should be a finite number"),
    ],
)
def test_a_mistake_is_one_clear_line(data: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        from_json(Farm, data)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_a_class_and_its_fields_are_set_in_one_go() -> None:
    assert replace(Farm(name="a"), {"guard": "Dog", "guard.age": 3}) == Farm(name="a", guard=Dog(age=3))
    with pytest.raises(UserError, match="guard.age: Input should be greater than or equal to 0, got -1"):
        replace(Farm(name="a"), {"guard": "Dog", "guard.age": -1})


def test_keys_leave_out_defaults_and_places_but_not_classes() -> None:
    assert keyed(Farm(name="a", road="there")) == keyed(Farm(name="a"))
    assert keyed(Farm(name="a", barn=Box(width=1.0))) == keyed(Farm(name="a"))
    assert keyed(Farm(name="a", barn=Box(width=2.0))) != keyed(Farm(name="a"))
    assert keyed(Dog()) != keyed(Cat())  # equal fields, other class


def test_seed_is_the_first_63_bits_of_blake2b_of_the_json_list() -> None:
    digest = hashlib.blake2b(json.dumps([3, "generate", "a/ü.png", 2]).encode()).digest()
    bits = "".join(f"{byte:08b}" for byte in digest)[:63]
    assert seed_of(3, "generate", "a/ü.png", 2) == int(bits, 2) < 2**63
    assert len({seed_of(0, "x", i) for i in range(1000)}) == 1000
    assert seed_of(1, "1") != seed_of("1", 1)
