"""What jax traces, lowers and compiles in this process, as it says itself."""

import jax

_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}


class Programs:
    """Lists them from its making on."""

    def __init__(self):
        self._seen: list[dict[str, str | float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **about: str) -> None:
        if event in _EVENTS:
            name = str(about.get("fun_name", ""))
            self._seen.append({"part": _EVENTS[event], "name": name, "seconds": seconds})

    def take(self) -> list[dict[str, str | float]]:
        """Those since the last call: part, name and seconds of each."""
        seen, self._seen = self._seen, []
        return seen
