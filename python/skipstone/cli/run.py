"""skipstone run: one prompt, its text streamed."""
from __future__ import annotations

import sys
from typing import Annotated, Any, Optional

import typer

from .output import (GRAMMAR_HELP, INTERRUPTED, JSON_SCHEMA_HELP, REGEX_HELP, console, draft_argument, draft_tokens_argument, errors_as_messages, figures, layers_argument,
                     model_path, print_json, printable, standard_input, text_or_file)


def command(
    model: Annotated[str, typer.Argument(help="A GGUF file, a folder with safetensors, org/repo:QUANT, or a bundled model: tiny-qwen35, tiny-gemma4.")],
    prompt: Annotated[Optional[str], typer.Option("--prompt", "-p", help="The text to continue; - or none reads it from standard input.")] = None,
    draft: Annotated[Optional[str], typer.Option(help="A drafter's file or name, or ngram; by default the model's own head or the file beside it.")] = None,
    no_draft: Annotated[bool, typer.Option("--no-draft", help="Decode without drafting: the same text, one token a pass.")] = False,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens to write.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Keep the likeliest tokens up to this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Keep tokens at least this likely, relative to the likeliest.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(help="Divide the logits of tokens already in the text; 1 is off.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Taken from the logits of tokens that were written.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="Taken from them for each time that they were.")] = 0.0,
    seed: Annotated[Optional[int], typer.Option(help="The same seed gives the same text, drafting on or off.")] = None,
    stop: Annotated[Optional[list[str]], typer.Option(help="End at this text; may be given several times.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the model's end of a text.")] = False,
    json_schema: Annotated[Optional[str], typer.Option(help=JSON_SCHEMA_HELP)] = None,
    regex: Annotated[Optional[str], typer.Option(help=REGEX_HELP)] = None,
    grammar: Annotated[Optional[str], typer.Option(help=GRAMMAR_HELP)] = None,
    draft_tokens: Annotated[str, typer.Option(help="Drafts a pass: auto, or 0 to 15.")] = "auto",
    threads: Annotated[Optional[int], typer.Option("--threads", "-t", help="Threads; by default all usable cores.")] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda:0 or hip:0; skipstone devices lists them.")] = "auto",
    gpu_layers: Annotated[str, typer.Option(help="How many of the last layers are on cards; auto: as many as have room.")] = "auto",
    cpu_experts: Annotated[str, typer.Option(help="Of how many layers the processor has the experts; auto: as is fastest.")] = "auto",
    memory_limit: Annotated[Optional[str], typer.Option(help="Of each card: 12GB; by default what is free.")] = None,
    kv_type: Annotated[str, typer.Option(help="Type of the cache: f16, bf16, f32, q8_0 or q4_0.")] = "f16",
    context: Annotated[Optional[int], typer.Option(help="Most tokens of a text; by default what the model was trained for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON instead of streaming.")] = False,
) -> None:
    """Continue a prompt and print the text as it comes; figures go to standard error."""
    with errors_as_messages():
        from ..errors import ArgumentError
        from ..loading import load

        drafts = draft_tokens_argument(draft_tokens)
        if prompt is None and sys.stdin.isatty():
            raise ArgumentError("there is no prompt; give one by --prompt, or as standard input. To talk with a model: skipstone chat")
        constraints = dict(json_schema=text_or_file("--json-schema", json_schema), regex=regex, grammar=text_or_file("--grammar", grammar))
        loaded = load(model_path(model), draft=draft_argument(draft, no_draft), device=device, threads=threads, kv_type=kv_type, context=context,
                      gpu_layers=layers_argument("--gpu-layers", gpu_layers), cpu_experts=layers_argument("--cpu-experts", cpu_experts), memory_limit=memory_limit)
        text = standard_input() if prompt in (None, "-") else prompt
        options: dict[str, Any] = dict(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty,
                                       presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, seed=seed, stop=stop or None,
                                       stop_at_eos=not ignore_eos, draft_tokens=drafts, **constraints)
        terminal = sys.stdout.isatty()
        written: list[str] = []
        tokens: list[int] = []
        finish, stats = "interrupted", None
        try:
            for piece in loaded.stream(text, **options):
                written.append(piece.text)
                tokens.extend(piece.tokens)
                if not as_json:
                    sys.stdout.write(printable(piece.text) if terminal else piece.text)
                    sys.stdout.flush()
                if piece.finish_reason:
                    finish, stats = piece.finish_reason, piece.stats
        except KeyboardInterrupt:
            pass                                            # what was written until then is shown
        if as_json:
            print_json({"model": loaded.name, "text": "".join(written), "tokens": tokens, "finish_reason": finish, "stats": figures(stats) if stats else None})
        else:
            sys.stdout.write("\n")
            sys.stdout.flush()
            console(stderr=True).print(f"[dim]{stats or f'interrupted after {len(tokens)} tokens'}[/]", soft_wrap=True)
        if finish == "interrupted":
            raise typer.Exit(INTERRUPTED)
