//! What was promised, what was found, and whether the one follows from the other.

use serde::Serialize;

/// Whether a promise was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// What is claimed was measured here.
    Reproduced,
    /// It was not.
    NotReproduced,
}

impl Verdict {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
        }
    }
}

/// One promise, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// What is promised, and by which figure it is judged.
    pub(crate) claim: String,
    /// What was measured.
    pub(crate) found: String,
    /// What follows.
    pub(crate) verdict: Verdict,
    /// Whether the protocol promises it, so that nothing else may happen on any machine.
    pub(crate) must_hold: bool,
}

impl Check {
    /// A promise of the protocol: it holds, or something is broken.
    pub(crate) fn promise(claim: impl Into<String>, found: impl Into<String>, holds: bool) -> Self {
        Self {
            claim: claim.into(),
            found: found.into(),
            verdict: match holds {
                true => Verdict::Reproduced,
                false => Verdict::NotReproduced,
            },
            must_hold: true,
        }
    }

    /// A claim that may well be wrong.
    pub(crate) fn claim(claim: impl Into<String>, found: impl Into<String>, holds: bool) -> Self {
        Self {
            must_hold: false,
            ..Self::promise(claim, found, holds)
        }
    }

    /// The claim that one figure is so many times another: kept from four fifths of that on, as
    /// nobody who says "10 times" means it to the digit.
    pub(crate) fn times(what: &str, claimed: f64, found: f64) -> Self {
        let threshold = claimed * 0.8;
        Self::claim(
            format!("{what} {claimed:.0} times (from {threshold:.1} times on)"),
            format!("{found:.1} times"),
            found >= threshold,
        )
    }

    /// Whether something is broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.must_hold && self.verdict == Verdict::NotReproduced
    }
}

/// One sentence on all checks of a part; `summary` says what was found when all of them hold.
pub(crate) fn conclusion(checks: &[Check], summary: &str) -> String {
    let failed: Vec<String> = (checks.iter())
        .filter(|check| check.verdict == Verdict::NotReproduced)
        .map(|check| format!("{} - found: {}", check.claim, check.found))
        .collect();
    match (failed.len(), checks.len()) {
        (0, _) => format!("Reproduced: {summary}."),
        (none, all) if none == all => format!("Not reproduced: {}.", failed.join("; ")),
        (some, all) => format!(
            "Reproduced in {} of {all} points; not reproduced: {}.",
            all - some,
            failed.join("; ")
        ),
    }
}

/// A number with its thousands apart.
pub(crate) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 connection`, `2 connections`.
pub(crate) fn counted(count: u64, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {one}{plural}", number(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_judged_by_the_threshold_that_is_shown() {
        for (found, verdict) in [
            (10.0, Verdict::Reproduced),
            (8.0, Verdict::Reproduced),
            (7.9, Verdict::NotReproduced),
            (f64::NAN, Verdict::NotReproduced),
        ] {
            let check = Check::times("smaller", 10.0, found);
            assert_eq!(check.verdict, verdict, "{found}");
            assert!(check.claim.contains("from 8.0 times on"));
            assert!(!check.is_broken(), "a claim of others breaks nothing");
        }
    }

    #[test]
    fn only_a_promise_that_does_not_hold_is_broken() {
        assert!(Check::promise("one", "two", false).is_broken());
        assert!(!Check::promise("one", "one", true).is_broken());
        assert!(!Check::claim("one", "two", false).is_broken());
    }

    #[test]
    fn a_conclusion_says_what_did_not_hold() {
        let good = Check::promise("a", "b", true);
        let bad = Check::claim("c", "d", false);
        let both = [good.clone(), bad.clone()];
        assert_eq!(
            conclusion(std::slice::from_ref(&good), "all is well"),
            "Reproduced: all is well."
        );
        assert_eq!(
            conclusion(&both, "all is well"),
            "Reproduced in 1 of 2 points; not reproduced: c - found: d."
        );
        assert_eq!(conclusion(&[bad], ""), "Not reproduced: c - found: d.");
    }

    #[test]
    fn numbers_can_be_read() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(number),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(counted(1, "call"), "1 call");
        assert_eq!(counted(1_000, "call"), "1,000 calls");
    }
}
