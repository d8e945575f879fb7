//! How lines become terms, and how a text that must be in a line is looked up among them.
//!
//! A token is a longest run of ASCII letters and digits and of anything beyond ASCII, in lower case (ASCII only). Tokens that
//! look like identifiers would make up most of the dictionary and are left out: hexadecimal ones of 8 characters or more with a
//! digit, decimal ones of 4 or more, and any of more than [`LONGEST_TOKEN`] bytes, for which [`LONG`] stands. A lookup never
//! loses a line: where a text could hide in a token that was left out, it says nothing.

use tantivy::tokenizer::{TextAnalyzer, Token, TokenStream, Tokenizer, TokenizerManager};

/// The name of the tokenizer in the schema.
pub(crate) const TOKENIZER: &str = "pharos";

const LONGEST_TOKEN: usize = 128;

/// Stands for a token that was too long; no real token has this character.
pub(crate) const LONG: &str = "+";

/// A piece of a text that must be in a line, as it bears on tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Clue {
    /// There is this token.
    Exact(String),
    /// There is a token that begins with this.
    Prefix(String),
    /// There is a token that ends with this.
    Suffix(String),
    /// There is a token that contains this.
    Infix(String),
}

/// What any line that contains `text` has among its tokens; all of them hold.
pub(crate) fn clues(text: &str) -> Vec<Clue> {
    let mut clues = Vec::new();
    for (start, end) in Runs(text, 0) {
        let (open_start, open_end) = (start == 0, end == text.len());
        let run = text[start..end].to_ascii_lowercase();
        if run.len() > LONGEST_TOKEN || ((open_start || open_end) && could_be_part_of_identifier(&run)) || is_identifier(&run) {
            continue;
        }
        clues.push(match (open_start, open_end) {
            (false, false) => Clue::Exact(run),
            (false, true) => Clue::Prefix(run),
            (true, false) => Clue::Suffix(run),
            (true, true) => Clue::Infix(run),
        });
    }
    clues
}

impl Clue {
    /// Whether a token is such a one.
    pub(crate) fn matches(&self, token: &[u8]) -> bool {
        match self {
            Self::Exact(text) => token == text.as_bytes(),
            Self::Prefix(text) => token.starts_with(text.as_bytes()),
            Self::Suffix(text) => token.ends_with(text.as_bytes()),
            Self::Infix(text) => token.windows(text.len()).any(|window| window == text.as_bytes()),
        }
    }
}

/// Whether a token is left out of the index. `token` is in lower case.
fn is_identifier(token: &str) -> bool {
    let bytes = token.as_bytes();
    let digits = bytes.iter().filter(|byte| byte.is_ascii_digit()).count();
    (digits == bytes.len() && bytes.len() >= 4) || (bytes.len() >= 8 && digits > 0 && could_be_part_of_identifier(token))
}

fn could_be_part_of_identifier(run: &str) -> bool {
    run.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where the tokens of a text are.
struct Runs<'a>(&'a str, usize);

impl Iterator for Runs<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let bytes = self.0.as_bytes();
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii();
        let start = self.1 + bytes[self.1..].iter().position(is_token)?;
        let end = bytes[start..].iter().position(|byte| !is_token(byte)).map_or(bytes.len(), |length| start + length);
        self.1 = end;
        Some((start, end))
    }
}

#[derive(Clone, Default)]
struct LineTokenizer {
    token: Token,
}

struct LineTokens<'a> {
    runs: Runs<'a>,
    token: &'a mut Token,
}

/// A manager that knows the tokenizer.
pub(crate) fn manager() -> TokenizerManager {
    let manager = TokenizerManager::default();
    manager.register(TOKENIZER, TextAnalyzer::builder(LineTokenizer::default()).build());
    manager
}

impl Tokenizer for LineTokenizer {
    type TokenStream<'a> = LineTokens<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> LineTokens<'a> {
        self.token.reset();
        LineTokens { runs: Runs(text, 0), token: &mut self.token }
    }
}

impl TokenStream for LineTokens<'_> {
    fn advance(&mut self) -> bool {
        while let Some((start, end)) = self.runs.next() {
            self.token.text.clear();
            if end - start > LONGEST_TOKEN {
                self.token.text.push_str(LONG);
            } else {
                self.token.text.push_str(&self.runs.0[start..end]);
                self.token.text.make_ascii_lowercase();
                if is_identifier(&self.token.text) {
                    continue;
                }
            }
            self.token.position = self.token.position.wrapping_add(1);
            (self.token.offset_from, self.token.offset_to) = (start, end);
            return true;
        }
        false
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(line: &str) -> Vec<String> {
        let mut tokenizer = LineTokenizer::default();
        let mut stream = tokenizer.token_stream(line);
        let mut tokens = Vec::new();
        stream.process(&mut |token| tokens.push(token.text.clone()));
        tokens
    }

    #[test]
    fn tokens_are_words_without_identifiers() {
        assert_eq!(tokens("GET /api/v1 200 12345 deadbeef1 Größe=7"), ["get", "api", "v1", "200", "größe", "7"]);
        assert_eq!(tokens(&"x".repeat(200)), [LONG]);
    }

    #[test]
    fn clues_hold_for_every_line_that_contains_the_text() {
        let lines = [
            "pod default/web-1 failed: timeout after 30s",
            "id=deadbeef12345678 timeout=1234567 user=abc",
            "a1b2c3d4e5f6 x-TIMEOUT-y 99",
            &format!("{} tail", "timeout".repeat(40)),
            "Größe überschritten",
        ];
        for line in lines {
            let tokens = tokens(line);
            let ends: Vec<usize> = (0..=line.len()).filter(|at| line.is_char_boundary(*at)).collect();
            for (nth, start) in ends.iter().enumerate() {
                for end in &ends[nth + 1..] {
                    let text = &line[*start..*end];
                    for clue in clues(text) {
                        let found = tokens.iter().any(|token| token == LONG || clue.matches(token.as_bytes()));
                        assert!(found, "{line:?} contains {text:?}, but has no {clue:?}");
                    }
                }
            }
        }
    }
}
