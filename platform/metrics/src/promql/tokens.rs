//! What can be said of a query's text before, or besides, its parsing: how deep its tree will be, and what is no selector.
//!
//! The tree is walked by recursion, in the parser as in the evaluation, so its depth is bounded where it is still text. Tokens
//! are those of the parser where that accepts the text; where it does not, there is no tree.

/// The most brackets within each other. A call within a call takes up to 9 KB of stack in a debug build.
const DEEPEST_BRACKETS: usize = 100;

/// The most operators and brackets on a way from a query's root to a leaf: a chain such as `1 + 1 + 1` makes a tree as deep as it
/// is long. An operator takes up to 6 KB of stack in a debug build, so that queries stay within threads' 2 MiB. The longest
/// expressions of kubernetes-mixin have a tenth of it.
const DEEPEST: usize = 200;

/// Refuses a text whose tree would be too deep to walk.
pub(super) fn check_depth(text: &str) -> Result<(), String> {
    let mut outer: Vec<Level> = Vec::new();
    let mut level = Level::default();
    let mut in_braces = false;
    for token in Tokens::of(text) {
        match token {
            "{" => in_braces = true,
            "}" => in_braces = false,
            _ if in_braces => {}
            "(" => {
                if outer.len() >= DEEPEST_BRACKETS {
                    return Err(too_deep(DEEPEST_BRACKETS, "brackets"));
                }
                outer.push(std::mem::take(&mut level));
            }
            ")" => {
                if let Some(around) = outer.pop() {
                    let inner = std::mem::replace(&mut level, around).depth();
                    level.deepest = level.deepest.max(inner + 1);
                }
            }
            // A range or a subquery is around what stands before it. The sign of an offset counts, too: that does no harm.
            _ if token == "[" || is_operator(token) => level.operators += 1,
            _ => {}
        }
    }
    if level.depth() > DEEPEST {
        return Err(too_deep(DEEPEST, "operators and brackets"));
    }
    Ok(())
}

fn too_deep(most: usize, what: &str) -> String {
    format!("expression is nested too deeply: more than {most} {what} within each other")
}

/// What upstream finds unexpected in a text that should be nothing but a series selector, if anything.
pub(super) fn after_selector(text: &str) -> Option<String> {
    let mut tokens = Tokens::of(text).peekable();
    tokens.next_if(|token| token.starts_with(|c: char| is_word(c) && !starts_number(c)));
    if tokens.next_if_eq(&"{").is_some() {
        tokens.find(|token| *token == "}")?;
    }
    let token = tokens.next()?;
    let first = token.chars().next()?;
    Some(match first {
        _ if is_operator(token) || token == "@" => format!("<op:{token}>"),
        '"' | '\'' | '`' => format!("string {}", quoted(token)),
        c if starts_number(c) => format!("number {}", quoted(token)),
        c if is_word(c) => format!("<{token}>"),
        _ => quoted(token),
    })
}

/// What stands between two brackets.
#[derive(Default)]
struct Level {
    operators: usize,
    /// The depth of what is in brackets here.
    deepest: usize,
}

impl Level {
    /// At most so deep is the tree, whichever way the operators bind.
    fn depth(&self) -> usize {
        self.operators + self.deepest
    }
}

fn is_operator(token: &str) -> bool {
    const WORDS: [&str; 4] = ["and", "or", "unless", "atan2"];
    matches!(token, "+" | "-" | "*" | "/" | "%" | "^" | "==" | "!=" | "<" | "<=" | ">" | ">=")
        || WORDS.iter().any(|word| token.eq_ignore_ascii_case(word))
}

/// Of names, keywords, numbers and durations.
fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

fn starts_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

/// As upstream shows a token.
fn quoted(token: &str) -> String {
    match token.char_indices().nth(10) {
        Some((end, _)) => format!("{:?}...", &token[..end]),
        None => format!("{token:?}"),
    }
}

/// The tokens of a text, without spaces and comments.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Tokens<'a> {
    fn of(text: &'a str) -> Self {
        Self { rest: text }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start();
        while self.rest.starts_with('#') {
            let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
            self.rest = self.rest[end..].trim_start();
        }
        let first = self.rest.chars().next()?;
        let end = match first {
            '"' | '\'' | '`' => string_end(self.rest, first),
            c if is_word(c) => self.rest.find(|c: char| !is_word(c)).unwrap_or(self.rest.len()),
            '=' | '!' | '<' | '>' if self.rest[1..].starts_with(['=', '~']) => 2,
            c => c.len_utf8(),
        };
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(token)
    }
}

/// Where the string ends that a text starts with. The parser takes backslashes for escapes between backticks, too.
fn string_end(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_as_long_as_it_is_text() {
        let nested = |open: &str, inner: &str, close: &str, n: usize| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
        let chain = |operator: &str, n: usize| format!("1{}", format!("{operator}1").repeat(n));
        for (query, fits) in [
            (nested("(", "1", ")", 100), true),
            (nested("(", "1", ")", 101), false),
            (nested("(", "1", "", 2000), false),
            (nested("abs(", "up", ")", 100), true),
            (nested("abs(", "up", ")", 5000), false),
            (nested("max_over_time(", "up", "[1h:1m])", 100), true),
            (nested("max_over_time(", "up", "[1h:1m])", 101), false),
            (chain("+", 200), true),
            (chain("+", 201), false),
            (chain("^", 201), false),
            (chain(" == bool ", 201), false),
            (chain(" UNLESS ", 201), false),
            (nested("-", "1", "", 201), false),
            // Not within each other: what is beside each other may be much.
            (format!("label_join(up{})", format!(",({})", chain("+", 90)).repeat(50)), true),
            (format!("({}) + ({})", chain("+", 190), chain("*", 190)), true),
            (format!("({}) + {}", chain("+", 100), chain("*", 100)), false),
            // Neither matchers, nor strings, nor comments.
            (format!("up{{{}}}", "a=\"b\",c!=\"d\",e=~\"f\",".repeat(300)), true),
            (format!("up{{a=\"{}\"}}", "(+\\\"".repeat(300)), true),
            (format!("up{{a='{0}',b=`{0}`}}", "(+".repeat(300)), true),
            (format!("# {0}\n1 # {0}", "(+".repeat(300)), true),
            // What is no query is for the parser to refuse.
            (String::new(), true),
            (")))) \"é\\".to_owned(), true),
        ] {
            assert_eq!(check_depth(&query).is_ok(), fits, "{query}");
        }
    }

    #[test]
    fn selectors_are_nothing_else() {
        for (text, unexpected) in [
            ("up", None),
            (" up{a=\"}\", b=~'{'} # or what", None),
            ("{__name__=\"up\"}", None),
            ("sum", None),
            ("sum(up)", Some("\"(\"")),
            ("sum by (a) (up)", Some("<by>")),
            ("(up)", Some("\"(\"")),
            ("up[5m]", Some("\"[\"")),
            ("up offset 5m", Some("<offset>")),
            ("up{a=\"b\"} @ 3", Some("<op:@>")),
            ("up or down", Some("<op:or>")),
            ("-up", Some("<op:->")),
            ("1", Some("number \"1\"")),
            ("\"a text that is long\"", Some("string \"\\\"a text th\"...")),
        ] {
            assert_eq!(after_selector(text).as_deref(), unexpected, "{text}");
        }
    }
}
