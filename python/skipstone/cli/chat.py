"""skipstone chat: a conversation on the terminal, or one answer in a pipe."""
from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from .output import (GRAMMAR_HELP, INTERRUPTED, JSON_SCHEMA_HELP, REGEX_HELP, console, draft_argument, draft_tokens_argument, errors_as_messages, figures, layers_argument,
                     model_path, print_json, printable, read_text, shown, standard_input, text_or_file)

if TYPE_CHECKING:
    from ..results import ChatResult
    from .conversation import Conversation

DEFAULTS = {"temperature": 0.7, "top_p": 0.95}         # where the model's files suggest nothing


def command(
    model: Annotated[str, typer.Argument(help="A GGUF file, a folder with safetensors, org/repo:QUANT, or a bundled model's name.")],
    prompt: Annotated[Optional[str], typer.Option("--prompt", "-p", help="One message: print its answer and end; - reads it from standard input.")] = None,
    system: Annotated[Optional[str], typer.Option("--system", "-s", help="The system message.")] = None,
    messages: Annotated[Optional[str], typer.Option(help="A JSON file of messages to go on with, as /save writes; - reads standard input.")] = None,
    tools: Annotated[Optional[str], typer.Option(help="A JSON file with a list of tools that the model may call.")] = None,
    think: Annotated[Optional[bool], typer.Option("--think/--no-think", help="Whether the model reasons first; by default as its template has it.")] = None,
    template: Annotated[Optional[str], typer.Option(help="A file with a chat template in place of the model's own.")] = None,
    draft: Annotated[Optional[str], typer.Option(help="A drafter's file or name, or ngram; by default the model's own head or the file beside it.")] = None,
    no_draft: Annotated[bool, typer.Option("--no-draft", help="Decode without drafting: the same text, one token a pass.")] = False,
    max_tokens: Annotated[Optional[int], typer.Option("--max-tokens", "-n", help="Most tokens of an answer; by default 2048.")] = None,
    temperature: Annotated[Optional[float], typer.Option(help="0 takes the likeliest token; by default what the model's files suggest, else 0.7.")] = None,
    top_k: Annotated[Optional[int], typer.Option(help="Keep the k likeliest tokens; 0 keeps all.")] = None,
    top_p: Annotated[Optional[float], typer.Option(help="Keep the likeliest tokens up to this probability.")] = None,
    min_p: Annotated[Optional[float], typer.Option(help="Keep tokens at least this likely, relative to the likeliest.")] = None,
    repeat_penalty: Annotated[Optional[float], typer.Option(help="Divide the logits of tokens already in the text; 1 is off.")] = None,
    presence_penalty: Annotated[Optional[float], typer.Option(help="Taken from the logits of tokens that were written.")] = None,
    frequency_penalty: Annotated[Optional[float], typer.Option(help="Taken from them for each time that they were.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="The same seed gives the same answer to the same messages.")] = None,
    stop: Annotated[Optional[list[str]], typer.Option(help="End an answer at this text; may be given several times.")] = None,
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
    history: Annotated[bool, typer.Option("--history/--no-history", help="Keep the lines you write for the next time.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One answer as JSON: text, reasoning, tool_calls, figures.")] = False,
) -> None:
    """Talk with a model. On a terminal a conversation with / commands; with --prompt or piped input one answer."""
    with errors_as_messages():
        from ..chat.messages import check_messages, check_tools
        from ..errors import ArgumentError
        from ..loading import load
        from .conversation import Conversation, parse_json, read_messages
        from .interrupts import heed

        if prompt == "-" and messages == "-":
            raise ArgumentError("--prompt - and --messages - both read standard input; give one of them")
        talk: list[dict[str, Any]] = []
        if messages is not None:
            talk = check_messages(parse_json(standard_input(), "standard input", "messages")) if messages == "-" else read_messages(messages)
        if system is not None:
            talk = [{"role": "system", "content": system}] + [m for m in talk if m["role"] != "system"]
        known = check_tools(parse_json(read_text(tools), tools, "tools")) if tools is not None else None
        own_template = read_text(template) if template is not None else None
        wanted = dict(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repeat_penalty=repeat_penalty,
                      presence_penalty=presence_penalty, frequency_penalty=frequency_penalty, seed=seed, stop=stop or None,
                      json_schema=text_or_file("--json-schema", json_schema), regex=regex, grammar=text_or_file("--grammar", grammar))
        drafts = draft_tokens_argument(draft_tokens)

        unanswered = bool(talk) and talk[-1]["role"] not in ("system", "assistant")
        conversing = prompt is None and not unanswered and sys.stdin.isatty() and not as_json
        if conversing:
            heed()
        loaded = load(model_path(model), draft=draft_argument(draft, no_draft), device=device, threads=threads, kv_type=kv_type, context=context,
                      gpu_layers=layers_argument("--gpu-layers", gpu_layers), cpu_experts=layers_argument("--cpu-experts", cpu_experts), memory_limit=memory_limit)
        options = {**DEFAULTS, **loaded.sampling, **{name: value for name, value in wanted.items() if value is not None}, "draft_tokens": drafts}
        conversation = Conversation(loaded, talk, options, enable_thinking=think, chat_template=own_template, tools=known)
        if conversing:
            _converse(conversation, history)
            return
        question = None if unanswered and prompt is None else standard_input() if prompt in (None, "-") else prompt
        if question is not None and not question.strip():
            raise ArgumentError("the message is empty; give one by --prompt, or as standard input")
        _once(conversation, question, as_json)


def _write(conversation: Conversation, question: str | None, quiet: bool = False) -> tuple[ChatResult, bool]:
    """Writes an answer as it comes; what there is of it in the end, and whether it was interrupted."""
    from ..results import ChatResult
    from .interrupts import AnswerPresses
    from .terminal import Answer

    out, text, reasoning, calls, tokens, finish, stats = Answer(), "", "", [], [], None, None
    interrupted = False
    with AnswerPresses() as presses:
        pieces = conversation.ask(question) if question is not None else conversation.answer(conversation.messages)
        try:
            for piece in pieces:
                presses.writing = True
                text, reasoning = text + piece.text, reasoning + piece.reasoning
                calls += piece.tool_calls
                tokens += piece.tokens
                finish, stats = piece.finish_reason, piece.stats
                if not quiet:
                    out.write(piece.text, piece.reasoning)
                if presses.asked and not finish:
                    interrupted = True
                    pieces.close()                          # type: ignore[attr-defined]
                    break
        except KeyboardInterrupt:
            interrupted = True
            conversation.renew_session()
        except BaseException:
            out.finish()
            raise
    if not quiet:
        for call in calls:
            out.note(f"[calls {call.name}({', '.join(f'{name}={value!r}' for name, value in call.arguments.items())})]\n")
        if interrupted or finish == "length":
            out.note("[interrupted]" if interrupted else "[ended by max_tokens or the context]")
        out.finish()
    conversation.last = f"Last answer: {stats}" if stats else f"The last answer was interrupted after {len(tokens)} tokens"
    return ChatResult(text, reasoning, calls, tokens, finish or "stop", stats), interrupted     # type: ignore[arg-type]


def _once(conversation: Conversation, question: str | None, as_json: bool) -> None:
    result, interrupted = _write(conversation, question, quiet=as_json)
    if as_json:
        print_json({"model": conversation.model.name, "text": result.text, "reasoning": result.reasoning,
                    "tool_calls": [asdict(call) for call in result.tool_calls], "tokens": result.tokens,
                    "finish_reason": "interrupted" if interrupted else result.finish_reason, "stats": figures(result.stats) if result.stats else None})
    elif result.tool_calls and not sys.stdout.isatty():
        console(stderr=True).print(f"[dim]{len(result.tool_calls)} tool calls; --json gives them[/]")
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _converse(conversation: Conversation, history: bool) -> None:
    from ..errors import SkipstoneError
    from .conversation import Leave
    from .terminal import Lines

    model, out, complaints = conversation.model, console(), console(stderr=True)
    drafter = f"drafts by {model.drafter.name}" if model.drafter else "no drafter"
    out.print(f"[bold]{shown(model.name)}[/] [dim]({shown(model.architecture)}), {drafter}, {model.device}, {model.threads} threads, "
              f"context {model.context_length:,}. /help lists commands.[/]")
    lines = Lines(history)
    try:
        while True:
            try:
                line = lines.read()
            except KeyboardInterrupt:
                out.print("\n[dim]Ctrl-D or /exit leaves.[/]")
                continue
            except EOFError:
                out.print()
                return
            except UnicodeDecodeError:
                complaints.print("[bold red]error:[/] that is no text in this terminal's encoding")
                continue
            if not line.strip():
                continue
            try:
                if line.startswith("/") and not line.startswith("//"):
                    out.print(printable(conversation.command(line)), style="dim", markup=False)
                    continue
                question = line[1:] if line.startswith("//") else line
                result, _ = _write(conversation, question)
                if result.tokens:
                    conversation.answered(question, result)
                out.print()
            except Leave:
                return
            except SkipstoneError as error:
                complaints.print(f"[bold red]error:[/] {shown(str(error))}")
            except KeyboardInterrupt:
                continue
    finally:
        lines.close()
