use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig, value::Serde};
use opencharacter_core::{Message, Role};

use crate::{NnError, Tokenizer};

/// A model's own way of writing a conversation, rendered as transformers renders it.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    begin_of_text: String,
    end_of_text: String,
}

/// A conversation in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedConversation {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// Which of them the model is to learn, or be scored on: the assistant's words and its end-of-turn tokens.
    pub trained: Vec<bool>,
}

impl ChatTemplate {
    /// A template with its model's text borders.
    pub fn new(source: impl Into<String>, tokenizer: &Tokenizer) -> Self {
        Self {
            source: source.into(),
            begin_of_text: tokenizer.begin_of_text_name(),
            end_of_text: tokenizer.end_of_text_name(),
        }
    }

    /// The Jinja text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as the model reads it; with `answer_next`, the opening of the assistant's next turn as well.
    pub fn render(&self, messages: &[Message], answer_next: bool) -> Result<String, NnError> {
        let fail = |error: Error| NnError::ChatTemplate { reason: error.to_string() };
        let mut environment = Environment::new();
        // As transformers compiles templates.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        let values = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => answer_next,
            bos_token => self.begin_of_text.as_str(),
            eos_token => self.end_of_text.as_str(),
        };
        environment.render_str(&self.source, values).map_err(fail)
    }

    /// The tokens of a conversation that the assistant is to continue. A last message of the assistant is the beginning of
    /// its answer: the text goes on right behind it.
    pub fn encode_prompt(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<Vec<u32>, NnError> {
        let (before, begun) = match messages.split_last() {
            Some((last, before)) if last.role == Role::Assistant => (before, last.content.as_str()),
            _ => (messages, ""),
        };
        let mut text = self.render(before, true)?;
        text.push_str(begun);
        Ok(tokenizer.encode_after(&[], &text))
    }

    /// The tokens of a whole conversation, with the assistant's marked.
    ///
    /// Each answer is tokenised on its own, after the exact text that generation would have started from: what is
    /// trained is what is later drawn, token for token. An answer's end-of-turn token is trained, what the template
    /// writes after it is not.
    pub fn encode_conversation(
        &self,
        messages: &[Message],
        tokenizer: &Tokenizer,
    ) -> Result<EncodedConversation, NnError> {
        let mut conversation = EncodedConversation { tokens: Vec::new(), trained: Vec::new() };
        let mut done = String::new();
        for (index, message) in messages.iter().enumerate() {
            if message.role != Role::Assistant {
                continue;
            }
            let prompt = self.render(&messages[..index], true)?;
            let answered = self.render(&messages[..=index], false)?;
            let (Some(before), Some(answer)) = (prompt.strip_prefix(&done), answered.strip_prefix(&prompt)) else {
                return Err(NnError::ChatTemplate {
                    reason: "it rewrites earlier turns, so an answer cannot be told from its prompt".into(),
                });
            };
            conversation.extend(&tokenizer.encode_after(&conversation.tokens, before), false);
            let tokens = tokenizer.encode_after(&conversation.tokens, answer);
            let end = tokens.iter().rposition(|token| tokenizer.end_of_text().contains(token));
            let end = end.map_or(tokens.len(), |end| end + 1);
            conversation.extend(&tokens[..end], true);
            conversation.extend(&tokens[end..], false);
            done = answered;
        }
        if conversation.tokens.is_empty() {
            return Err(NnError::ChatTemplate { reason: "the conversation holds no assistant message".into() });
        }
        Ok(conversation)
    }
}

impl EncodedConversation {
    fn extend(&mut self, tokens: &[u32], trained: bool) {
        self.tokens.extend_from_slice(tokens);
        self.trained.resize(self.tokens.len(), trained);
    }

    /// How many tokens are trained.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }
}
