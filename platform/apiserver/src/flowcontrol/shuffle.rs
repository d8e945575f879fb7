//! Shuffle sharding: a flow gets a hand of queues, so that few flows share all of theirs with a flow that floods
//! (`apiserver/pkg/util/shufflesharding`).

use pharos_api::flowcontrol::{MAX_HASH_BITS, entropy_bits};

/// The largest hand there is: a larger one takes more bits of a hash than may be used, whatever the deck.
const MAX_HAND: usize = 15;

/// Deals hands of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dealer {
    deck: u32,
    hand: u32,
}

/// Some queues, in the order they were dealt.
pub(super) struct Hand {
    cards: [usize; MAX_HAND],
    size: usize,
}

impl Dealer {
    /// `None` if hands of this size can't be dealt from this deck.
    pub(super) fn new(deck: u32, hand: u32) -> Option<Self> {
        let sensible = hand > 0 && hand <= deck && hand as usize <= MAX_HAND && entropy_bits(deck, hand) <= MAX_HASH_BITS;
        sensible.then_some(Dealer { deck, hand })
    }

    /// How many queues there are.
    pub(super) fn deck(self) -> usize {
        self.deck as usize
    }

    /// The hand of a flow: the same for the same hash, its queues all different.
    pub(super) fn deal(self, mut hash: u64) -> Hand {
        let size = self.hand as usize;
        let mut remainders = [0_usize; MAX_HAND];
        for (dealt, remainder) in remainders.iter_mut().enumerate().take(size) {
            let left = u64::from(self.deck) - dealt as u64;
            *remainder = (hash % left) as usize;
            hash /= left;
        }
        let mut cards = [0; MAX_HAND];
        for at in 0..size {
            // The n-th of those that are left: each card dealt before and not above it moves it up by one.
            cards[at] = remainders[..at].iter().rev().fold(remainders[at], |card, &before| card + usize::from(card >= before));
        }
        Hand { cards, size }
    }
}

impl Hand {
    /// The queues, beginning with that at `offset`, so that flows with overlapping hands don't all prefer the same.
    pub(super) fn from(&self, offset: usize) -> impl Iterator<Item = usize> + '_ {
        let cards = &self.cards[..self.size];
        (0..self.size).map(move |at| cards[(offset % self.size + at) % self.size])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hands_that_can_be_dealt() {
        for (deck, hand, want) in
            [(64, 6, true), (128, 6, true), (1, 1, true), (4, 5, false), (0, 0, false), (4, 0, false), (512, 8, false)]
        {
            assert_eq!(Dealer::new(deck, hand).is_some(), want, "{deck} {hand}");
        }
    }

    #[test]
    fn hands_have_different_queues_and_are_spread() {
        let dealer = Dealer::new(16, 4).unwrap();
        let mut used = BTreeSet::new();
        for seed in 0..200_u64 {
            let hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hand: Vec<usize> = dealer.deal(hash).from(0).collect();
            assert_eq!(hand, dealer.deal(hash).from(4).collect::<Vec<_>>());
            let different: BTreeSet<usize> = hand.iter().copied().collect();
            assert!(different.len() == 4 && hand.iter().all(|queue| *queue < 16), "{hand:?}");
            used.extend(different);
        }
        assert_eq!(used.len(), 16);
    }

    #[test]
    fn cards_are_dealt_as_upstream_deals_them() {
        // 6 = 2 + 4 * 1: the third of four, then the second of the three that are left.
        let hand: Vec<usize> = Dealer::new(4, 2).unwrap().deal(6).from(0).collect();
        assert_eq!(hand, [2, 1]);
        // The first twice: the second card is the next one.
        assert_eq!(Dealer::new(4, 3).unwrap().deal(0).from(1).collect::<Vec<_>>(), [1, 2, 0]);
    }
}
