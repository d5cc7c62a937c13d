"""Prints the state diagram of a build, from the machine's own table."""

from __future__ import annotations

from transitions.extensions import GraphMachine

from binder_core.builds import TABLE, State


def main() -> None:
    """Print it in Mermaid's language."""
    diagram = GraphMachine(
        states=State,
        transitions=list(TABLE),
        initial=State.QUEUED,
        auto_transitions=False,
        graph_engine="mermaid",
        title="One attempt at a build",
    )
    print(diagram.get_combined_graph().draw(None))


if __name__ == "__main__":
    main()
