"""The write side of derived files: made from a generation, staged, and named in a generation of their own.

What they hold their makers know (derived.py says what a maker is); parts and items stay as they are.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from indexer.checked import describe
from indexer.derived import Derivation
from indexer.draft import discard
from indexer.fsio import fsync_file, step
from indexer.generation import Generation
from indexer.pointer import Pointer, program_version


class DerivedFiles:
    """What one writer derives in one go, in its staging folder until it is committed."""

    def __init__(self, pointer: Pointer, staging: Path) -> None:
        self._pointer = pointer
        self._staging = staging
        self._made: dict[str, Path] = {}  # name in the index: where it is staged

    def commit(self, parent: Generation, derivations: Sequence[Derivation]) -> Generation:
        """A generation like `parent` that also names what is due; `parent` itself where that changes nothing.

        CommitConflict where CURRENT is no longer `parent`. Nothing stays staged.
        """
        from indexer.snapshot import Snapshot

        keys = dict(parent.derived)
        try:
            with Snapshot.open(self._pointer.index_dir, generation=parent.name) as snapshot:
                snapshot.generation = sound = snapshot.sound  # what is damaged is due to be made,
                due = [one for one in derivations if one.due(sound) or one.due(parent)]  # or to go
                if not due:
                    return parent
                for derivation in due:
                    for key, content in derivation.derive(snapshot):
                        keys.pop(key, None)
                        if content:
                            keys[key] = self._stage(content)
            damaged = set(parent.derived.values()) - set(sound.derived.values())
            if keys == parent.derived and not damaged & self._made.keys():
                return parent
            return self._publish(parent, keys)
        finally:
            discard(list(self._made.values()))

    def _stage(self, content: bytes) -> str:
        """A derived file under its content's name."""
        name = f"derived/{hashlib.sha256(content).hexdigest()[:16]}.bin"
        if name not in self._made:
            path = self._staging / f"{secrets.token_hex(8)}.bin"
            path.write_bytes(content)
            fsync_file(path)
            self._made[name] = path
        return name

    def _publish(self, parent: Generation, keys: Mapping[str, str]) -> Generation:
        """Commit the parent with other derived files."""
        files = {name: file for name, file in parent.files.items() if not name.startswith("derived/")}
        for name in set(keys.values()):
            files[name] = describe(self._made[name]) if name in self._made else parent.files[name]
        with self._pointer.committing(parent):
            self._pointer.move({name: path for name, path in self._made.items() if name in files})
            step("derived-moved")
            generation = replace(
                parent,
                number=parent.number + 1,
                parent=parent.number,
                created=time.time(),
                program=program_version(),
                derived=dict(sorted(keys.items())),
                files=files,
            )
            self._pointer.swap(generation)
        return generation
