//! Literals of strings and bytes.

use super::lexer::Token;

/// A literal and its length, or the length of what looks like one and is none; none if something else begins here.
pub(super) fn literal(rest: &[char]) -> Option<Result<(Token, usize), usize>> {
    let (mut raw, mut bytes, mut start) = (false, false, 0);
    // `b` before `r`, either may be missing.
    if matches!(rest.first()?, 'b' | 'B') {
        bytes = true;
        start += 1;
    }
    if matches!(rest.get(start)?, 'r' | 'R') {
        raw = true;
        start += 1;
    }
    let quote = *rest.get(start)?;
    if !matches!(quote, '"' | '\'') {
        return None;
    }
    let triple = rest.get(start + 1) == Some(&quote) && rest.get(start + 2) == Some(&quote);
    let width = if triple { 3 } else { 1 };
    let mut inner = Inner { bytes: Vec::new(), is_bytes: bytes };
    let mut at = start + width;
    loop {
        let Some(&character) = rest.get(at) else { return Some(Err(rest.len())) };
        if character == quote && (!triple || (rest.get(at + 1) == Some(&quote) && rest.get(at + 2) == Some(&quote))) {
            at += width;
            break;
        }
        if !triple && matches!(character, '\n' | '\r') {
            return Some(Err(at));
        }
        if character == '\\' && !raw {
            let Some(length) = escape(&rest[at + 1..], &mut inner) else { return Some(Err(at + 2.min(rest.len() - at))) };
            at += 1 + length;
            continue;
        }
        // A carriage return before a line feed is no part of the text.
        if !(triple && character == '\r' && rest.get(at + 1) == Some(&'\n')) {
            inner.push(character);
        }
        at += 1;
    }
    let token = if bytes {
        Token::Bytes(inner.bytes.into())
    } else {
        Token::Text(String::from_utf8_lossy(&inner.bytes).into_owned().into())
    };
    Some(Ok((token, at)))
}

struct Inner {
    bytes: Vec<u8>,
    is_bytes: bool,
}

impl Inner {
    fn push(&mut self, character: char) {
        self.bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// What `\x41` and `\101` mean: a byte of bytes, a character of a string.
    fn push_byte(&mut self, value: u32) -> Option<()> {
        if self.is_bytes {
            self.bytes.push(u8::try_from(value).ok()?);
        } else {
            self.push(char::from_u32(value)?);
        }
        Some(())
    }
}

/// What comes after a backslash: its length.
fn escape(rest: &[char], inner: &mut Inner) -> Option<usize> {
    let hex = |from: usize, count: usize| {
        let digits: String = rest.get(from..from + count)?.iter().collect();
        u32::from_str_radix(&digits, 16).ok()
    };
    let plain = match rest.first()? {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        character @ ('"' | '\'' | '\\' | '?' | '`') => *character,
        'x' | 'X' => {
            inner.push_byte(hex(1, 2)?)?;
            return Some(3);
        }
        // Bytes have no code points.
        'u' if !inner.is_bytes => {
            inner.push(char::from_u32(hex(1, 4)?)?);
            return Some(5);
        }
        'U' if !inner.is_bytes => {
            inner.push(char::from_u32(hex(1, 8)?)?);
            return Some(9);
        }
        '0'..='3' => {
            let digits: String = rest.get(..3)?.iter().collect();
            inner.push_byte(u32::from_str_radix(&digits, 8).ok()?)?;
            return Some(3);
        }
        _ => return None,
    };
    inner.push(plain);
    Some(1)
}
