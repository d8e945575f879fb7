use super::{Kind, Outcome};

/// How many answers alike it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    /// To count as good.
    pub(crate) success: u32,
    /// To count as bad.
    pub(crate) failure: u32,
}

/// What the answers of one probe of one container add up to (`prober/worker.go`).
#[derive(Debug)]
pub(crate) struct State {
    thresholds: Thresholds,
    last: Option<bool>,
    run: u32,
    /// `None` until the first verdict of a startup probe.
    verdict: Option<bool>,
}

impl State {
    /// A container is taken for alive and for not ready until told otherwise.
    pub(crate) fn new(kind: Kind, thresholds: Thresholds) -> Self {
        let verdict = match kind {
            Kind::Startup => None,
            Kind::Liveness => Some(true),
            Kind::Readiness => Some(false),
        };
        Self { thresholds, last: None, run: 0, verdict }
    }

    /// Takes over a verdict from before a restart.
    pub(crate) fn assume(&mut self, good: bool) {
        self.verdict = Some(good);
    }

    /// Counts an answer; returns the verdict when it has changed.
    pub(crate) fn observe(&mut self, outcome: &Outcome) -> Option<bool> {
        let good = match outcome {
            Outcome::Success | Outcome::Warning(_) => true,
            Outcome::Failure(_) => false,
            Outcome::Unknown(_) => return None,
        };
        if self.last == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(good);
            self.run = 1;
        }
        let needed = if good { self.thresholds.success } else { self.thresholds.failure };
        if self.run < needed || self.verdict == Some(good) {
            return None;
        }
        self.verdict = Some(good);
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as `+`, `-`, `?`; verdicts as they change, `.` for none.
    fn check(kind: Kind, success: u32, failure: u32, answers: &str, expect: &str) {
        let mut state = State::new(kind, Thresholds { success, failure });
        let verdicts: String = answers
            .chars()
            .map(|answer| {
                let outcome = match answer {
                    '+' => Outcome::Success,
                    '-' => Outcome::Failure(String::new()),
                    _ => Outcome::Unknown(String::new()),
                };
                match state.observe(&outcome) {
                    Some(true) => '+',
                    Some(false) => '-',
                    None => '.',
                }
            })
            .collect();
        assert_eq!(verdicts, expect, "{kind:?} {answers}");
    }

    #[test]
    fn thresholds() {
        check(Kind::Readiness, 1, 3, "+---+", "+..-+");
        check(Kind::Readiness, 2, 1, "+++-++", ".+.-.+");
        check(Kind::Liveness, 1, 3, "+--+---", "......-");
        check(Kind::Liveness, 1, 3, "--?-", "...-");
        check(Kind::Startup, 1, 2, "-+", ".+");
        check(Kind::Startup, 1, 2, "--", ".-");
    }
}
