//! Regular expressions: RE2's syntax, by a crate that reads a few things otherwise.

use std::{borrow::Cow, collections::HashMap};

use regex::Regex;

use crate::EvaluationError;

/// Those a program was compiled with.
pub(crate) type Regexes = HashMap<String, Regex>;

/// A regular expression of RE2's syntax.
///
/// # Errors
///
/// When it is none, or would be too large.
pub(crate) fn compile(pattern: &str) -> Result<Regex, EvaluationError> {
    let refuse = |error: regex::Error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        EvaluationError::new(format!("error parsing regexp: {why}: `{pattern}`"))
    };
    Regex::new(&translated(pattern)).map_err(refuse)
}

/// One of those known, or a new one.
pub(crate) fn get<'r>(known: &'r Regexes, pattern: &str) -> Result<Cow<'r, Regex>, EvaluationError> {
    match known.get(pattern) {
        Some(regex) => Ok(Cow::Borrowed(regex)),
        None => compile(pattern).map(Cow::Owned),
    }
}

/// The same in the crate's syntax: classes of RE2 are ASCII's, and a bracket within brackets is a bracket.
fn translated(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len() + 16);
    let mut characters = pattern.chars().peekable();
    let mut class = false;
    // Where a class may begin with `]`.
    let mut first = false;
    // After `\d` and its like a `-` is no range.
    let mut shorthand = false;
    while let Some(character) = characters.next() {
        let was_first = std::mem::take(&mut first);
        let was_shorthand = std::mem::take(&mut shorthand);
        match character {
            '\\' => {
                shorthand = matches!(characters.peek(), Some('d' | 'w' | 's' | 'D' | 'W' | 'S'));
                escape(&mut text, &mut characters, class);
            }
            '[' if !class => {
                class = true;
                text.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    text.push('^');
                }
                first = true;
            }
            '[' if characters.peek() == Some(&':') => {
                // `[:alpha:]` to its end.
                text.push('[');
                for character in characters.by_ref() {
                    text.push(character);
                    if text.ends_with(":]") {
                        break;
                    }
                }
            }
            '[' => text.push_str("\\["),
            ']' if class && was_first => text.push_str("\\]"),
            ']' => {
                class = false;
                text.push(']');
            }
            '&' | '~' if class => {
                text.push('\\');
                text.push(character);
            }
            '-' if class && (was_shorthand || text.ends_with('-')) => text.push_str("\\-"),
            _ => text.push(character),
        }
    }
    text
}

fn escape(text: &mut String, characters: &mut std::iter::Peekable<std::str::Chars<'_>>, class: bool) {
    let Some(letter) = characters.next() else {
        text.push('\\');
        return;
    };
    let plain = match letter {
        'd' => "0-9",
        'w' => "0-9A-Za-z_",
        's' => "\\t\\n\\x0c\\r ",
        'D' => return text.push_str("[^0-9]"),
        'W' => return text.push_str("[^0-9A-Za-z_]"),
        'S' => return text.push_str("[^\\t\\n\\x0c\\r ]"),
        'b' if !class => return text.push_str("(?-u:\\b)"),
        'Q' => {
            // Verbatim to `\E`.
            let mut quoted = String::new();
            while let Some(character) = characters.next() {
                if character == '\\' && characters.next_if_eq(&'E').is_some() {
                    break;
                }
                quoted.push(character);
            }
            return text.push_str(&regex::escape(&quoted));
        }
        other => {
            text.push('\\');
            return text.push(other);
        }
    };
    if class {
        text.push_str(plain);
    } else {
        text.push('[');
        text.push_str(plain);
        text.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn re2() {
        for (pattern, text, wanted) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "\u{661}\u{662}", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^\w$", "ä", false),
            (r"^[\w-.]+$", "a-b.c", true),
            (r"^[[]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[[:alpha:]0-9]+$", "ab1", true),
            (r"^[^[:digit:]]+$", "a1", false),
            (r"^[a&&b]+$", "a&b", true),
            (r"\Qa.b\E", "a.b", true),
            (r"\Qa.b\E", "axb", false),
            (r"\bfoo\b", "a foo b", true),
            (r"^[\D]+$", "ab", true),
            (r"^a$", "a\n", false),
        ] {
            let regex = compile(pattern).expect(pattern);
            assert_eq!(regex.is_match(text), wanted, "{pattern} {text:?}");
        }
        assert!(compile("(").is_err());
        assert!(compile("(?=a)").is_err());
    }
}
