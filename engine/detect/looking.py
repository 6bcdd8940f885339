"""Networks, and readers of text and codes, that look at pixels; by default in another process.

What strangers sent is shown to a dozen libraries here. ``NetworksApart`` runs them in a process
without keys, catalog and network (``formats.sandbox``), and only boxes, confidences and verdicts
come back: what was read in a picture stays there. ``NetworksHere`` is what runs in it. It runs in
this process where a GPU is used, and where tests replace a network.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from engine.detect.networks import (
    Arbiter,
    Finding,
    Glancing,
    ModelInfo,
    Near,
    Network,
    Rescaled,
    Verified,
    Zoomed,
    is_grey,
)
from engine.detect.own_versions import LEARNING, OwnVersion
from engine.detect.text_verdict import Judge, Judgement, Known
from engine.errors import CorruptImage, DetectorError, EngineError, ImageTooLarge, MachineOverloaded
from engine.formats.sandbox import Sandbox
from engine.geometry import Region
from engine.host import is_shortage
from engine.installation import MODEL, VENDOR
from engine.records import TextVerdict
from engine.settings import Settings

if TYPE_CHECKING:  # opened when a network first needs it: importing it costs a second
    from engine.detect.text import TextNetwork
    from engine.detect.verifier import Verifier

#: Networks whose text is weighed by the one that reads, where a profile names both.
WITNESSES = ("yolov8n",)
#: Networks that find nothing on a frame of a film where a glance sees nothing.
GLANCED = ("ppocr", "yolov8n")
#: Networks that find nothing where nothing has strokes.
NEED_STROKES = ("zxing",)
SECONDS = 120.0  # for one picture; the first one loads the networks
MEMORY_BYTES = 6 << 30  # address space of the process
#: Learned versions in memory: one in force, one in the shadow, and one that was replaced.
VERSIONS_KEPT = 3
MOST_FOUND = 50_000  # boxes in one picture, before overlapping ones are merged
_READER = "ppocr"
Loaded = TypeVar("Loaded")


def _open_text(settings: Settings) -> Network:
    from engine.detect.text import TextNetwork

    return TextNetwork(settings)


def _open_faces(settings: Settings) -> Network:
    from engine.detect.faces import FaceNetwork

    return FaceNetwork(settings)


def _open_codes(settings: Settings) -> Network:
    from engine.detect.barcodes import CodeReader

    return CodeReader(settings)


def _open_nudenet(settings: Settings) -> Network:
    from engine.detect.yolo import open_nudenet

    return open_nudenet(settings)


def _open_own(settings: Settings) -> Network:
    from engine.detect.yolo import open_own

    return open_own(settings)


def _open_thorax(settings: Settings) -> Network:
    from engine.detect.yolo import THORAX_SIDES_PX, open_own

    return open_own(settings, ("thorax",), THORAX_SIDES_PX, THORAX_SIDES_PX)


def _open_tattoo(settings: Settings) -> Network:
    from engine.detect.yolo import open_tattoo

    return open_tattoo(settings)


#: Every network there is, by the name that profiles use.
NETWORKS: dict[str, Callable[[Settings], Network]] = {
    "ppocr": _open_text,
    "centerface": _open_faces,
    "zxing": _open_codes,
    "nudenet": _open_nudenet,
    "yolov8n": _open_own,
    "yolov8n-thorax": _open_thorax,
    "yolov8n-tattoo": _open_tattoo,
}

#: What each of them can find, known without opening it.
FINDS: dict[str, tuple[str, ...]] = {
    "ppocr": ("text",),
    "centerface": ("face",),
    "zxing": ("barcode",),
    "nudenet": ("face", "intimate"),
    "yolov8n": ("text", "barcode"),
    "yolov8n-thorax": ("thorax",),
    "yolov8n-tattoo": ("tattoo",),
}

_CODES = "verifier-barcode"
#: Confidence from which the verifier is asked about a box of a code, whatever is reported.
CODES_FROM = 0.02
#: Second opinions, and the networks whose boxes of that class they are asked about.
VERIFIERS = {
    _CODES: ("barcode", ("yolov8n", "zxing")),
    "verifier-text": ("text", ("ppocr",)),
}


@dataclass(frozen=True)
class Ask:
    """What is wanted of a look.

    Args:
        networks: Their names.
        floor: Lowest confidence that is reported, 0 to 1.
        weigh_text: Let the network that reads decide about what witnesses take for text.
        again: Look at other sizes than the first time, where a network can.
        own: The version of MedSec's own network that looks; None is the shipped one.
        whole_px: Longer side of the picture of which a part is shown: the part is then seen at
            the scale at which the whole would be, where a network can. 0 is that of what is shown.
        scene: By what its file says, the picture may show a scene, with small things in it.
    """

    networks: tuple[str, ...]
    floor: float
    weigh_text: bool
    again: bool = False
    own: OwnVersion | None = None
    whole_px: int = 0
    scene: bool = True


def _verifiers_of(network: str) -> list[str]:
    return [verifier for verifier, (_, asking) in VERIFIERS.items() if network in asking]


class Looking(Protocol):
    """Where networks run. Thread-safe."""

    @property
    def opened(self) -> dict[str, ModelInfo]:
        """Networks that were opened so far, by name."""
        ...

    def open(self, name: str) -> ModelInfo:
        """Load a network, if that has not been done.

        Raises:
            DetectorError: There is none of this name, or it is missing, altered or does not load.
            MachineOverloaded: There is no memory or no thread for it now. It is there and whole,
                so another try may load it, and no person has to look at the image in its stead.
        """
        ...

    def look(self, ask: Ask, picture: np.ndarray) -> list[tuple[str, Finding]]:
        """What networks find, each with the network's name.

        Args:
            picture: Shape (H, W, 3), uint8, RGB, C-contiguous.

        Raises:
            DetectorError: A network failed.
        """
        ...

    def glance(self, ask: Ask, picture: np.ndarray) -> list[Finding] | None:
        """Where networks of ``GLANCED`` may find something, seen at one size and not judged.

        Args:
            picture: As for :meth:`look`.

        Returns:
            Boxes; None where none of the networks asked for can glance.

        Raises:
            DetectorError: A network failed.
        """
        ...

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        """See :meth:`engine.detect.text_verdict.Judge.judge`."""
        ...


class NetworksHere:
    """Networks in this process, opened on first use and kept; each serialises its inference."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._networks: dict[str, Network] = {}
        self._verifiers: dict[str, Verifier] = {}
        #: Learned versions by their digest, the last used at the end.
        self._versions: dict[str, Network] = {}
        self._opening = threading.Lock()

    @property
    def opened(self) -> dict[str, ModelInfo]:
        every: dict[str, Network | Verifier] = {**self._networks, **self._verifiers}
        return {name: network.info for name, network in sorted(every.items())}

    def open(self, name: str) -> ModelInfo:
        if name in VERIFIERS:
            return self._verifier(name).info
        network = self._network(name)
        for verifier in _verifiers_of(name):
            if VERIFIERS[verifier][0] != "text" or isinstance(network, Verified):
                self.open(verifier)
        return network.info

    def look(self, ask: Ask, picture: np.ndarray) -> list[tuple[str, Finding]]:
        networks = [(name, self._for(ask, name, picture)) for name in ask.networks]
        judges = [pair for pair in networks if isinstance(pair[1], Arbiter)]
        # Where nobody weighs what they say, it counts as it is.
        witnesses = [
            pair for pair in networks if judges and pair[0] in WITNESSES and ask.weigh_text
        ]
        aside = [pair for pair in networks if pair not in judges and pair not in witnesses]
        witnessed: list[Finding] = []
        taught = ask.own is not None

        def seen(name: str, network: Network) -> list[tuple[str, Finding]]:
            if witnesses and isinstance(network, Arbiter):
                arbiter = network
                return findings(name, lambda: arbiter.settle(picture, ask.floor, witnessed, taught))
            asks = name in VERIFIERS[_CODES][1]
            least = min(ask.floor, CODES_FROM) if asks else ask.floor
            every = findings(name, lambda: network.look(picture, least))
            return [(n, f) for n, f in every if f.confidence >= ask.floor or f.label == "barcode"]

        found: list[tuple[str, Finding]] = []
        # Reading codes takes one processor for as long as the text networks take the others.
        with ThreadPoolExecutor(max_workers=1) as lane:
            others = [lane.submit(seen, *pair) for pair in aside]
            for pair in witnesses:
                for name, finding in seen(*pair):
                    if finding.label == "text":
                        witnessed.append(finding)
                    else:
                        found.append((name, finding))
            for pair in judges:
                found += seen(*pair)
            for other in others:
                found += other.result()
        return self._settled(ask, picture, found)

    def _settled(
        self, ask: Ask, picture: np.ndarray, found: list[tuple[str, Finding]]
    ) -> list[tuple[str, Finding]]:
        """What verifiers leave of what was found."""
        if not any(f.label == "barcode" for _, f in found):
            return found
        from engine.detect.barcodes import settled_codes

        try:
            return settled_codes(picture, found, ask.floor, lambda: self._verifier(_CODES))
        except EngineError:
            raise
        except Exception as err:
            raise DetectorError(
                "A verifier failed while looking at an image: it needs a person's look."
            ) from err

    def glance(self, ask: Ask, picture: np.ndarray) -> list[Finding] | None:
        for name in ask.networks:
            network = self._for(ask, name, picture)
            if isinstance(network, Glancing):
                seen = partial(network.glance, picture, ask.again)
                return [finding for _, finding in findings(name, seen)]
        return None

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        network = self._reader()
        try:
            return Judge(network.finder, network.reader).judge(picture, regions, known)
        except DetectorError:
            raise
        except Exception as err:
            raise DetectorError("Text could not be read.", network=_READER) from err

    def _for(self, ask: Ask, name: str, picture: np.ndarray) -> Network:
        """A network, at the sizes at which it is to look at a picture."""
        network = self._network(name, ask.own)
        if ask.again and isinstance(network, Rescaled):
            network = network.rescaled()
        if ask.whole_px > max(picture.shape[:2]) and isinstance(network, Zoomed):
            network = network.part_of(ask.whole_px)
        # What the file says is believed only of a grey picture.
        if not ask.scene and isinstance(network, Near) and is_grey(picture):
            network = network.near()
        return network

    def _network(self, name: str, own: OwnVersion | None = None) -> Network:
        if own is not None and name == LEARNING:
            return self._version(own)
        with self._opening:
            if name not in self._networks:
                if name not in NETWORKS:
                    raise DetectorError(f"There is no network {name!r}.", network=name)
                self._networks[name] = _opened(name, lambda: NETWORKS[name](self._settings))
            return self._networks[name]

    def _version(self, own: OwnVersion) -> Network:
        from engine.detect.yolo import open_version

        with self._opening:
            network = self._versions.pop(own.sha256, None)
            if network is None:
                network = _opened(LEARNING, lambda: open_version(self._settings, own))
            self._versions[own.sha256] = network
            if len(self._versions) > VERSIONS_KEPT:
                del self._versions[next(iter(self._versions))]
            return network

    def _verifier(self, name: str) -> Verifier:
        label, _ = VERIFIERS[name]
        if label == "text":  # opened with the network that asks it
            self._verifiers[name] = self._reader().verifier
            return self._verifiers[name]
        with self._opening:
            if name not in self._verifiers:
                from engine.detect.verifier import Verifier

                self._verifiers[name] = _opened(name, lambda: Verifier(self._settings, label))
            return self._verifiers[name]

    def _reader(self) -> TextNetwork:
        from engine.detect.text import TextNetwork

        network = self._network(_READER)
        if not isinstance(network, TextNetwork):
            raise DetectorError("There is no network that reads text.", network=_READER)
        return network


def findings(name: str, look: Callable[[], list[Finding]]) -> list[tuple[str, Finding]]:
    """What a network finds, with its name.

    Raises:
        DetectorError: It fails, or a box has no place.
    """
    try:
        found = look()
        if not all(math.isfinite(f.x1 + f.y1 + f.x2 + f.y2) for f in found):
            raise ValueError("a box without a place")
        return [(name, finding) for finding in found]
    except DetectorError:
        raise
    except Exception as err:
        raise DetectorError(
            "A network failed while looking at an image: it needs a person's look.", network=name
        ) from err


def _opened(name: str, load: Callable[[], Loaded]) -> Loaded:
    """Load a network; see :meth:`Looking.open`."""
    try:
        return load()
    except Exception as err:
        if is_shortage(err):
            raise MachineOverloaded(
                "This machine has too little memory or too many processes to load its networks now:"
                " end other programs and send the file again.",
                network=name,
            ) from err
        if isinstance(err, EngineError):
            raise
        raise DetectorError(
            "A network could not be loaded: install MedSec again, or ask for support.", network=name
        ) from err


class NetworksApart:
    """The same networks in a process without keys.

    Args:
        threads: Of the processor; 0 takes all.
        sandbox: Of this module.
    """

    def __init__(self, threads: int, sandbox: Sandbox | None = None) -> None:
        self._threads = threads
        self._sandbox = _SANDBOX if sandbox is None else sandbox
        self._opened: dict[str, ModelInfo] = {}

    @property
    def opened(self) -> dict[str, ModelInfo]:
        return dict(sorted(self._opened.items()))

    def open(self, name: str) -> ModelInfo:
        if name not in self._opened:
            said = self._asked("open", name)
            match said:
                case (
                    str(title),
                    str(version),
                    str(sha256),
                    str(licence),
                    tuple(found),
                    str(source),
                ):
                    classes = tuple(str(label) for label in found)
                case _:
                    raise _nonsense()
            self._opened[name] = ModelInfo(title, version, sha256, licence, classes, source)
            for verifier in _verifiers_of(name):
                self.open(verifier)
        return self._opened[name]

    def look(self, ask: Ask, picture: np.ndarray) -> list[tuple[str, Finding]]:
        return _found(self._asked("look", *_sent(ask), picture), ask.networks)

    def glance(self, ask: Ask, picture: np.ndarray) -> list[Finding] | None:
        said = self._asked("glance", *_sent(ask), picture)
        return None if said is None else [f for _, f in _found(said, ask.networks)]

    def judge(
        self, picture: np.ndarray, regions: Sequence[Region], known: Known
    ) -> list[Judgement]:
        boxes = [region.xyxy for region in regions]
        return _judgements(self._asked("judge", picture, boxes, known.values), len(boxes))

    def _asked(self, operation: str, *arguments: Any) -> Any:
        try:
            return self._sandbox.call(operation, self._threads, *arguments)
        except (CorruptImage, ImageTooLarge) as err:  # it crashed, or used up time or memory
            raise DetectorError(
                "A network failed while looking at an image: it needs a person's look.", **err.facts
            ) from err


def _sent(ask: Ask) -> tuple[tuple[Any, ...], np.ndarray]:
    """An ask as it travels: plain values, and the file of a learned version; empty without one.

    The process may have been started anew, so the file goes along each time, as that of a custom
    network does. As an array: the sandbox extends its time limit by the length of bytes.
    """
    own = ask.own
    plain = (ask.networks, ask.floor, ask.weigh_text, ask.again, ask.whole_px, ask.scene)
    if own is None:
        return (*plain, "", ""), np.empty(0, np.uint8)
    return (*plain, own.name, own.sha256), np.frombuffer(own.onnx, np.uint8)


def _nonsense() -> DetectorError:
    return DetectorError("A network talks nonsense: the image needs a person's look.")


def _found(said: Any, networks: Sequence[str]) -> list[tuple[str, Finding]]:
    """Check what a process says that could have been taken over."""
    if not isinstance(said, tuple) or len(said) > MOST_FOUND:
        raise _nonsense()
    found = []
    for row in said:
        match row:
            case (str(name), str(label), *numbers) if len(numbers) == 5:
                right = all(type(n) is float and math.isfinite(n) for n in numbers)
                if not right or name not in networks or not 0.0 <= numbers[4] <= 1.0:
                    raise _nonsense()
                if max(map(abs, numbers)) > 1e6:
                    raise _nonsense()
                x1, y1, x2, y2, confidence = numbers
                found.append((name, Finding(x1, y1, x2, y2, label, confidence)))
            case _:
                raise _nonsense()
    return found


def _judgements(said: Any, wanted: int) -> list[Judgement]:
    """Check verdicts from such a process."""
    if not isinstance(said, tuple) or len(said) != wanted:
        raise _nonsense()
    judged = []
    for row in said:
        match row:
            case (str(verdict), str(side)) if verdict in set(TextVerdict) and side in ("", *"LR"):
                judged.append(Judgement(TextVerdict(verdict), side))
            case _:
                raise _nonsense()
    return judged


# --- in the process without keys ----------------------------------------------------------------


@cache
def _here(threads: int) -> NetworksHere:
    return NetworksHere(Settings(threads=threads, device="cpu"))


def _open(threads: int, name: str) -> tuple[Any, ...]:
    return astuple(_here(threads).open(name))


def _look(
    threads: int, ask: Sequence[Any], weights: np.ndarray, picture: np.ndarray
) -> list[tuple[Any, ...]]:
    """Rows of network, label, x1, y1, x2, y2, confidence. A dataclass does not travel."""
    return [_row(*found) for found in _here(threads).look(_received(ask, weights), picture)]


def _received(ask: Sequence[Any], weights: np.ndarray) -> Ask:
    """What ``_sent`` sent."""
    networks, floor, weigh_text, again, whole_px, scene, name, sha256 = ask
    own = OwnVersion(name, sha256, weights.tobytes()) if sha256 else None
    return Ask(tuple(networks), floor, weigh_text, again, own, whole_px, scene)


def _glance(
    threads: int, ask: Sequence[Any], weights: np.ndarray, picture: np.ndarray
) -> list[tuple[Any, ...]] | None:
    """Rows as of ``_look``."""
    wanted = _received(ask, weights)
    seen = _here(threads).glance(wanted, picture)
    return None if seen is None else [_row(wanted.networks[0], f) for f in seen]


def _row(name: str, f: Finding) -> tuple[Any, ...]:
    return (name, f.label, *(float(v) for v in (*f.xyxy, f.confidence)))


def _judge(
    threads: int, picture: np.ndarray, boxes: Sequence[Sequence[int]], known: Sequence[str]
) -> list[tuple[str, str]]:
    """Only the verdicts leave; what was read does not."""
    regions = [Region(*box) for box in boxes]
    judged = _here(threads).judge(picture, regions, Known(tuple(known)))
    return [(str(j.verdict), j.side) for j in judged]


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "open": _open, "look": _look, "glance": _glance, "judge": _judge,
}  # fmt: skip
_SANDBOX = Sandbox(
    "engine.detect.looking", 1, SECONDS, MEMORY_BYTES, reads=(str(MODEL), str(VENDOR))
)
