//! Names the server makes up.

use rand::Rng as _;

/// Letters and digits that make no words and are not mistaken for each other (`apimachinery/pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The longest base a generated name keeps: 63 characters less the suffix (`apiserver/pkg/storage/names`).
const MAX_BASE: usize = 58;

/// Five random characters.
pub(crate) fn random_suffix() -> String {
    let mut rng = rand::rng();
    (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A name for an object that gives only its beginning.
pub(crate) fn generate(base: &str) -> String {
    let end = base.char_indices().map(|(at, _)| at).chain([base.len()]).take_while(|&at| at <= MAX_BASE).last().unwrap_or(0);
    format!("{}{}", &base[..end], random_suffix())
}

/// A date as `metav1.Time` is written.
pub(crate) fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit() {
        assert!(generate("a-").starts_with("a-") && generate("a-").len() == 7);
        assert_eq!(generate(&"x".repeat(80)).len(), 63);
    }
}
