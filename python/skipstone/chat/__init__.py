"""Conversations: messages to token ids by the file's own template, and answers taken apart into text, reasoning and tool calls."""
