"""Conversations: the text is the template's, and loss lies on exactly what the assistant wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gempi_jax.llm.chat import encode_conversation, encode_turns, render_completion, render_prompt, turn_end
from gempi_jax.llm.columns import DataError
from gempi_jax.llm.encoding import encode_completions, encode_demonstrations, encode_prompts
from gempi_jax.llm.lengths import TooLong
from gempi_jax.llm.tokenizers import train_tokenizer

# In the manner of ChatML: every turn ends in the end token and a line break.
CHATML = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MARKED = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<eos>{% endgeneration %}{% else %}{{ m['content'] }}<eos>{% endif %}"
    "{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Rewrites earlier turns of the assistant, as templates do that drop old reasoning.
FORGETS = (
    "{% for m in messages %}[{{ m['role'] }}]"
    "{% if m['role'] == 'assistant' and not loop.last %}...{% else %}{{ m['content'] }}{% endif %}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOKENIZER = train_tokenizer(["[user]hello[assistant]good day"], 320, largest_number=20)


def tokenizer(template):
    TOKENIZER.chat_template = template
    return TOKENIZER


def turns(*contents, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


def test_texts_by_hand():
    chat = tokenizer(CHATML)
    assert render_prompt(chat, turns("hi")) == "[user]hi<eos>\n[assistant]"
    assert render_prompt(chat, turns("hi", "I am")) == "[user]hi<eos>\n[assistant]I am"
    assert render_completion(chat, turns("hi"), turns("good day", first="assistant")) == "good day<eos>\n"
    assert render_completion(chat, turns("hi", "I am"), turns(" well", first="assistant")) == " well<eos>\n"


def test_loss_lies_on_the_assistant_and_its_end_token():
    conversation = encode_conversation(tokenizer(CHATML), turns("hi", "good day", "and", "no"))
    learnt = [token for token, mine in zip(*conversation, strict=True) if mine]
    assert TOKENIZER.decode(learnt) == "good day<eos>no<eos>"
    assert TOKENIZER.decode(conversation.tokens) == (
        "[user]hi<eos>\n[assistant]good day<eos>\n[user]and<eos>\n[assistant]no<eos>\n"
    )


@given(
    st.lists(
        st.text(st.characters(exclude_characters="[]<>", exclude_categories=["Cs"]), max_size=12),
        min_size=2,
        max_size=5,
    )
)
def test_marked_and_unmarked_templates_agree(contents):
    contents = [content.strip() or "x" for content in contents]
    plain = encode_conversation(tokenizer(CHATML), turns(*contents))
    assert encode_conversation(tokenizer(MARKED), turns(*contents)) == plain


def test_an_assistant_that_speaks_first():
    conversation = encode_conversation(tokenizer(CHATML), turns("hello", "hi", first="assistant"))
    assert TOKENIZER.decode([t for t, mine in zip(*conversation, strict=True) if mine]) == "hello<eos>"


def test_role_lists_as_prompts_and_completions_are_the_whole_conversation():
    chat = tokenizer(CHATML)
    prompt, completion = turns("hi", "good day", "and"), turns("no", first="assistant")
    tokens = encode_prompts(chat, [prompt], 64).tokens[0]
    answer = encode_completions(chat, [completion], 64, prompts=[prompt]).tokens[0]
    # Behind the end token the template writes one line break, which is never sampled.
    assert tokens + answer == encode_conversation(chat, prompt + completion).tokens[:-1]
    assert answer[-1] == chat.eos_token_id


def test_a_special_token_of_the_template_is_not_doubled():
    chat = tokenizer("<bos>" + CHATML)
    assert encode_prompts(chat, [turns("hi")], 64).tokens[0].count(chat.bos_token_id) == 1


def test_a_template_that_rewrites_earlier_turns_is_named():
    chat = tokenizer(FORGETS)
    with pytest.raises(DataError, match=r"up to message 1 differently once more follows: 'good day.*becomes '\.\.\."):
        encode_conversation(chat, turns("hi", "good day", "and", "no"))
    assert render_completion(chat, turns("hi", "good day", "and"), turns("no", first="assistant")) == "no<eos>\n"


def test_what_has_no_meaning_is_named():
    with pytest.raises(DataError, match=r"has no chat template; set tokenizer\.chat_template"):
        encode_prompts(tokenizer(None), [turns("hi")], 64)
    for template in (CHATML, MARKED):
        with pytest.raises(DataError, match="the roles are user"):
            encode_conversation(tokenizer(template), turns("hi"))
    with pytest.raises(DataError, match=r"refuses a conversation with the roles user: no system"):
        render_prompt(tokenizer("{{ raise_exception('no system') }}"), turns("hi"))
    with pytest.raises(DataError, match="a completion is a role list, but its prompt is not"):
        encode_completions(tokenizer(CHATML), [turns("no", first="assistant")], 64, prompts=["hi"])


def test_turns_by_hand():
    chat, messages = tokenizer(CHATML), turns("hi", "good day", "and", "no", "bye")
    for num_given, prompt, rest, learnt in [
        (0, "[user]hi<eos>\n[assistant]", "good day<eos>\n[user]and<eos>\n[assistant]no<eos>", "good day<eos>no<eos>"),
        (1, "[user]hi<eos>\n[assistant]good day<eos>\n[user]and<eos>\n[assistant]", "no<eos>", "no<eos>"),
    ]:
        cut = encode_turns(chat, messages, num_given=num_given)
        assert TOKENIZER.decode(cut.prompt) == prompt
        assert TOKENIZER.decode(cut.completion) == rest
        assert TOKENIZER.decode([t for t, mine in zip(cut.completion, cut.learnt, strict=True) if mine]) == learnt
    with pytest.raises(DataError, match=r"2 turns of the assistant have tokens and 2 belong to the prompt"):
        encode_turns(chat, messages, num_given=2)


def test_demonstrations_of_every_form_learn_what_the_assistant_says():
    chat, messages = tokenizer(CHATML), turns("hi", "good day", "and", "no")
    rows = [
        {"messages": messages},
        {"prompt": messages[:1], "completion": messages[1:]},
        {"prompt": messages[:3], "completion": messages[3:]},
        {"prompt": "hi", "completion": "no"},
    ]
    found = encode_demonstrations(chat, rows, 64, 64)
    learnt = [
        TOKENIZER.decode([t for t, mine in zip(tokens, mask, strict=True) if mine])
        for tokens, mask in zip(found.completions, found.learnt, strict=True)
    ]
    assert learnt == ["good day<eos>no<eos>", "good day<eos>no<eos>", "no<eos>", "no<eos>"]
    assert found.prompts[0] == found.prompts[1] == encode_prompts(chat, [messages[:1]], 64).tokens[0]
    assert found.completions[2] == encode_completions(chat, [messages[3:]], 64, prompts=[messages[:3]]).tokens[0]


def test_a_turn_ends_in_its_own_end_token_and_not_in_another():
    chat, messages = tokenizer(CHATML.replace("<eos>", "<pad>")), turns("hi", "no")
    row = {"prompt": messages[:1], "completion": messages[1:]}
    for end_ids, text in (((), "no<pad>\n<eos>"), ((turn_end(chat),), "no<pad>")):
        (tokens,) = encode_demonstrations(chat, [row], 64, 64, end_ids=end_ids).completions
        assert TOKENIZER.decode(tokens) == text


def test_long_conversations_are_dropped_or_cut_with_their_mask():
    chat = tokenizer(CHATML)
    rows = [{"messages": turns("hi", "no")}, {"messages": turns("hi", "good day", "and", "no")}]
    short = encode_demonstrations(chat, rows[:1], 64, 64)
    size = len(short.completions[0])
    dropped = encode_demonstrations(chat, rows, 64, size)
    assert (dropped.kept.tolist(), dropped.num_dropped, dropped.num_truncated) == ([0], 1, 0)
    cut = encode_demonstrations(chat, rows, 64, size, long_completions=TooLong.TRUNCATE)
    assert (cut.kept.tolist(), cut.num_dropped, cut.num_truncated) == ([0, 1], 0, 1)
    assert [len(tokens) for tokens in cut.completions] == [len(mask) for mask in cut.learnt] == [size, size]
    with pytest.raises(ValueError, match=r"1 of 2 completions are longer"):
        encode_demonstrations(chat, rows, 64, size, long_completions=TooLong.ERROR)
