"""`recall-traces completion`: a script that completes words in a shell.

It is made from the dataclasses of the options and then looks up words alone, so that no key in a shell waits for Python.
tyro's own completion does not serve: it knows neither which options belong to which environment and learner, nor fish.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gymnasium
from gymnasium.envs.registration import find_highest_version
from tyro import MISSING

import recall_traces
import recall_traces.agents.bonus
import recall_traces.envs as envs
import recall_traces.model
from recall_traces.agents.arms import ARMS, LEARNERS
from recall_traces.agents.presets import ELSEWHERE
from recall_traces.cli import SUBCOMMANDS
from recall_traces.cli.errors import UsageError
from recall_traces.cli.evaluate import EvaluateOptions
from recall_traces.cli.export import ExportOptions
from recall_traces.cli.options import DEMO_ENV, CompareOptions, TrainOptions
from recall_traces.cli.parsing import SHORT, Option, option_table
from recall_traces.cli.plot import PlotOptions
from recall_traces.cli.report import ReportOptions
from recall_traces.cli.resolve import all_optional
from recall_traces.cli.resume import ResumeOptions
from recall_traces.cli.traces import TracesOptions
from recall_traces.cli.watch import WatchOptions
from recall_traces.targets import SOURCES

HELP = """usage: recall-traces completion {bash,zsh,fish}

Print a script that completes subcommands, environments, arms, options and their values.

examples:
  recall-traces completion bash > ~/.local/share/bash-completion/completions/recall-traces
  recall-traces completion zsh > ~/.recall-traces.zsh     and in ~/.zshrc: source ~/.recall-traces.zsh
  recall-traces completion fish > ~/.config/fish/completions/recall-traces.fish"""
SHELLS = ("bash", "zsh", "fish")
FILES = "FILES"
"""Stands for the names of files."""
VALUES: dict[str, Iterable[str]] = {
    "--agent": LEARNERS,
    "--arm": ARMS,
    "--arms": ARMS,
    "--recall.source": SOURCES,
    "--recall.model.kind": recall_traces.model.KINDS,
    "--bonus.kind": recall_traces.agents.bonus.KINDS,
}
"""Of options whose values are checked elsewhere."""
Table = Mapping[str, Option]
LOOK_UP = r"""# Completion for recall-traces @VERSION@, made by `recall-traces completion`.

_recall_traces_words() {
    case $1 in
@CASES@
    esac
}

# Prints what may stand in the place of COMP_WORDS[COMP_CWORD], for bash and zsh.
_recall_traces_offer() {
    local subcommand=${COMP_WORDS[1]} current=${COMP_WORDS[COMP_CWORD]} option= awaits=0 place=1 agent env word words i
    agent=$(_recall_traces_words "$subcommand agent ")
    env=$(_recall_traces_words "$subcommand env ")
    for ((i = 2; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
            =) ;;
            @FLAGS@) option=$word awaits=0 ;;
            @LISTS@) option=$word awaits=99 ;;
            -*) option=$word awaits=1 ;;
            *)
                words=$(_recall_traces_words "$subcommand agent $word")
                agent=${words:-$agent}
                words=$(_recall_traces_words "$subcommand env $word")
                env=${words:-$env}
                if ((awaits > 0)); then awaits=$((awaits - 1)); else place=$((place + 1)); fi
                ;;
        esac
    done
    words=
    if ((COMP_CWORD == 1)); then
        words=$(_recall_traces_words subcommands)
    elif [[ $current != -* ]] && ((awaits > 0)); then
        words=$(_recall_traces_words "$subcommand $option")
        [[ -n $words ]] || return 0
    elif [[ $current != -* ]]; then
        words=$(_recall_traces_words "$subcommand $place")
    fi
    echo "${words:-$(_recall_traces_words "$subcommand options") $agent $env}"
}
"""
BASH = rf"""{LOOK_UP}
_recall_traces() {{
    local offered=$(_recall_traces_offer) current=${{COMP_WORDS[COMP_CWORD]}}
    [[ $current == = ]] && current=
    if [[ $offered == FILES ]]; then
        local IFS=$'\n'
        compopt -o filenames 2> /dev/null
        COMPREPLY=($(compgen -f -- "$current"))
    else
        COMPREPLY=($(compgen -W "$offered" -- "$current"))
    fi
}}

complete -F _recall_traces recall-traces"""
ZSH = rf"""{LOOK_UP}
_recall_traces() {{
    local COMP_CWORD=$((CURRENT - 1)) offered
    local -a COMP_WORDS=("${{words[@]}}")
    offered=$(emulate ksh; _recall_traces_offer)
    if [[ $offered == FILES ]]; then _files; else compadd -- ${{=offered}}; fi
}}

(( $+functions[compdef] )) || {{ autoload -Uz compinit && compinit }}
compdef _recall_traces recall-traces"""
FISH = r"""# Completion for recall-traces @VERSION@, made by `recall-traces completion`.

function __recall_traces_words
    switch $argv[1]
@CASES@
    end
end

function __recall_traces
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l subcommand $words[2]
    if test (count $words) -lt 2
        __recall_traces_words subcommands
        return
    end
    set -l agent (__recall_traces_words "$subcommand agent ")
    set -l env (__recall_traces_words "$subcommand env ")
    set -l option
    set -l awaits 0
    set -l place 1
    for word in $words[3..-1]
        switch $word
            case @FLAGS@
                set option $word
                set awaits 0
            case @LISTS@
                set option $word
                set awaits 99
            case '-*'
                set option $word
                set awaits 1
            case '*'
                set -l found (__recall_traces_words "$subcommand agent $word")
                test -n "$found"; and set agent $found
                set found (__recall_traces_words "$subcommand env $word")
                test -n "$found"; and set env $found
                if test $awaits -gt 0
                    set awaits (math $awaits - 1)
                else
                    set place (math $place + 1)
                end
        end
    end
    set -l found
    if not string match -q -- '-*' $current
        if test $awaits -gt 0
            set found (__recall_traces_words "$subcommand $option")
            test -n "$found"; or return
        else
            set found (__recall_traces_words "$subcommand $place")
        end
    end
    if test "$found" = FILES
        __fish_complete_path $current
    else if test -n "$found"
        printf '%s\n' $found
    else
        printf '%s\n' (__recall_traces_words "$subcommand options") $agent $env
    end
end

complete -c recall-traces -f -a '(__recall_traces)'"""


@dataclass(frozen=True)
class Words:
    """What may follow a subcommand."""

    positionals: tuple[Iterable[str], ...] = ()
    """Words for the first, the second and so on."""
    options: Table = field(default_factory=dict)
    """That there always are."""
    agents: Mapping[str, Table] = field(default_factory=dict)
    """Options of each learner; under an empty name those there are while none is named."""
    environments: Mapping[str, Table] = field(default_factory=dict)
    """Likewise of each environment; a `*` in a name stands for any text."""


def main(argv: Sequence[str]) -> None:
    """Run the subcommand.

    Raises:
        UsageError: it was given no shell, or one that is not served.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(HELP)
    elif len(argv) != 1 or argv[0] not in SHELLS:
        got = f", not {' '.join(argv)!r}" if argv else ""
        raise UsageError(f"completion takes the name of a shell, one of {', '.join(SHELLS)}{got}")
    else:
        print(script(argv[0]))


def script(shell: str) -> str:
    """The script for a shell."""
    words = subcommands()
    tables = [table for each in words.values() for table in (each.options, *each.agents.values(), *each.environments.values())]
    takes = {name: option.takes for table in tables for name, option in table.items()}
    flags, lists = ([name for name in takes if takes[name] == number] for number in (0, None))
    if shell == "fish":
        text, between = FISH, " "
        cases = [
            f"        case {' '.join(map(repr, keys))}\n            string split ' ' -- '{found}'"
            for found, keys in rules(words).items()
        ]
    else:
        text, between = (BASH if shell == "bash" else ZSH), "|"
        cases = [f"        {'|'.join(map(_pattern, keys))}) echo '{found}' ;;" for found, keys in rules(words).items()]
    fillings = {
        "@VERSION@": recall_traces.__version__,
        "@CASES@": "\n".join(cases),
        "@FLAGS@": between.join(flags),
        "@LISTS@": between.join(lists),
    }
    for mark, filling in fillings.items():
        text = text.replace(mark, filling)
    return text


def _pattern(key: str) -> str:
    """For `case` of bash and zsh, which must see the star outside of quotes."""
    return f"'{key}'".replace("*", "'*'").removesuffix("''")


def subcommands() -> dict[str, Words]:
    """What may follow each subcommand."""
    known, environments = environment_names(), environment_options()
    here = {"": environments[re.sub(r"\d+", "*", DEMO_ENV)]}
    return {name: Words() for name in SUBCOMMANDS} | {
        "train": of_run(TrainOptions(learner=MISSING, env_id=MISSING), (LEARNERS, known), environments),
        "compare": of_run(CompareOptions(), (known,), environments | here),
        "resume": Words(((FILES,),), option_table(ResumeOptions(run=MISSING))),
        "evaluate": Words(((FILES,),), option_table(EvaluateOptions(run=MISSING))),
        "export": Words(((FILES,),), option_table(ExportOptions(run=MISSING))),
        "plot": Words(((FILES,),) * 9, option_table(PlotOptions(runs=MISSING))),
        "report": Words(((FILES,),) * 9, option_table(ReportOptions(runs=MISSING))),
        "watch": Words(((FILES,),), option_table(WatchOptions(run=MISSING))),
        "traces": Words(((FILES,),), option_table(TracesOptions(run=MISSING))),
        "doctor": Words(options={"--json": Option(None, 0)}),
        "completion": Words((SHELLS,)),
    }


def of_run(
    default: TrainOptions | CompareOptions, positionals: tuple[Iterable[str], ...], environments: Mapping[str, Table]
) -> Words:
    """What may follow `train` or `compare`."""
    agents: dict[str, dict[str, Option]] = {"": {}}
    options: dict[str, Option] = {}
    for agent in LEARNERS:
        for name, option in option_table(dataclasses.replace(default, agent=getattr(ELSEWHERE, agent))).items():
            if name.startswith("--agent."):
                agents.setdefault(agent, {})[name] = agents[""][name] = option
            else:
                options[name] = option
    return Words(positionals, options, agents, environments)


def environment_names() -> list[str]:
    """Ours, with the sizes that Gymnasium knows, then Gymnasium's in their newest version."""
    specs = list(gymnasium.registry.values())
    ours = [spec.kwargs["env_id"] for spec in specs if spec.namespace == "recall_traces"]
    theirs = [
        spec.id
        for spec in specs
        if spec.namespace is None and str(spec.entry_point).startswith("gymnasium.envs.")
        if spec.version == find_highest_version(None, spec.name)
    ]
    return list(dict.fromkeys([*ours, *theirs]))


def environment_options() -> dict[str, Table]:
    """Options of each of our environments, and of its evaluation."""
    found: dict[str, Table] = {}
    for name in envs.registered_ids():
        options = envs.options_class(name.replace("<n>", "13"))
        if options is not None:
            table = option_table(options, "--env.") | option_table(all_optional(options), "--eval-env.")
            table |= {short: table[full] for short, full in SHORT.items() if full in table}
            found[name.replace("<n>", "*")] = table
    return found


def rules(words: Mapping[str, Words]) -> dict[str, list[str]]:
    """What the script looks up: words, and the keys that ask for them.

    The key of the subcommands is `subcommands`. Others begin with a subcommand: then comes the number of a positional, an option
    whose values are meant, `options`, or the options of a learner or an environment by `agent NAME` and `env NAME`.
    """
    found = {" ".join([*words, "--help", "--version"]): ["subcommands"]}

    def add(key: str, possible: Iterable[str]) -> None:
        text = " ".join(possible)
        if text and key not in found.setdefault(text, []):
            found[text].append(key)

    for subcommand, each in words.items():
        add(f"{subcommand} options", [*each.options, "--help"])
        for place, positional in enumerate(each.positionals, 1):
            add(f"{subcommand} {place}", positional)
        for agent, table in each.agents.items():
            add(f"{subcommand} agent {agent}", table)
        for environment, table in each.environments.items():
            add(f"{subcommand} env {environment}", table)
        for table in (each.options, *each.agents.values(), *each.environments.values()):
            for name, option in table.items():
                add(f"{subcommand} {name}", (FILES,) if option.kind is Path else VALUES.get(name, option.choices))
    return {text: keys for text, keys in found.items() if keys}
