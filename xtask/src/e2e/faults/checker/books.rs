//! Both disks and the receipts, held against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::outbox::Outbox;
use super::receipts::Receipt;
use super::receiver::Received;
use super::truth::Truth;
use super::{Expect, Findings, History, hex, id_text};

/// A file without an entry may be seen after so many stops in a row: it is put right at the start,
/// and another kill may come before that.
const ORPHAN_LOOKS: u32 = 2;

/// The reasons of losses that a full outbox brings about.
const EVICTED: &str = "evicted: the outbox was full";
const DROPPED: &str = "dropped: the outbox was full";
/// And the reason, whatever the policy, of one for which no room would ever be enough.
const TOO_LARGE: &str = "is larger than the outbox of";

/// Everything that was read.
pub(super) struct Books {
    pub(super) receiver: Received,
    pub(super) outbox: Outbox,
    pub(super) receipts: Vec<Receipt>,
}

/// How much there was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) stored: usize,
    pub(crate) quarantined: usize,
    pub(crate) lost: usize,
    pub(crate) owed: usize,
    pub(crate) receipts: usize,
    /// Offered by the source and not captured yet.
    pub(crate) to_come: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stored,
            quarantined,
            lost,
            owed,
            receipts,
            to_come,
        } = self;
        write!(
            f,
            "{stored} stored, {quarantined} quarantined, {lost} lost, {owed} owed, {to_come} to \
             come, {receipts} receipts"
        )
    }
}

/// A number, the image that has it, and who says so.
struct Numbered {
    outbox: Option<[u8; 16]>,
    sequence: u64,
    id: [u8; 16],
    by: &'static str,
}

impl Books {
    pub(super) fn audit(
        &self,
        truth: Option<&Truth>,
        expect: Expect,
        history: &mut History,
        findings: &mut Findings,
    ) -> Summary {
        self.receipts_are_true(findings);
        self.numbers_are_given_once(history, findings);
        self.numbers_have_no_gaps(history, findings);
        self.told_losses_are_known(findings);
        self.losses_have_their_reason(expect, findings);
        self.what_is_settled_has_its_receipt(findings);
        if !expect.gives_way {
            self.no_answered_image_is_lost(findings);
        }
        self.orphans_go(truth, expect, history, findings);
        let mut summary = Summary {
            owed: self.outbox.owed.len(),
            receipts: self.receipts.len(),
            lost: self.lost().len(),
            ..Summary::default()
        };
        for entry in self.receiver.entries.values() {
            match entry.quarantined {
                true => summary.quarantined += 1,
                false => summary.stored += 1,
            }
        }
        match truth {
            Some(truth) => self.all_are_somewhere(truth, expect, &mut summary, findings),
            None => self.no_content_is_stored_twice(findings),
        }
        if expect.drained {
            self.the_receiver_knows_the_last_number(findings);
        }
        if expect.drained && !self.outbox.owed.is_empty() {
            let owed = self.outbox.owed.iter().map(|owed| owed.sequence);
            findings.push(format!(
                "everything was to be delivered, and these are owed: {:?}",
                owed.collect::<Vec<_>>()
            ));
        }
        summary
    }

    /// Ids of all images on a ledger.
    fn lost(&self) -> BTreeSet<[u8; 16]> {
        let own = self.outbox.lost.iter().map(|lost| lost.id);
        let told = self.receiver.losses.iter().map(|loss| loss.id);
        own.chain(told).collect()
    }

    fn receipts_are_true(&self, findings: &mut Findings) {
        for receipt in &self.receipts {
            let label = format!("receipt {} of {}", receipt.status, id_text(&receipt.id));
            let Some(entry) = self.receiver.entries.get(&receipt.id) else {
                findings.push(format!("{label}: the receiver does not know the image"));
                continue;
            };
            if entry.content.is_none() {
                findings.push(format!("{label}: the receiver has no file of it"));
            }
            if (receipt.status == "quarantined") != entry.quarantined {
                findings.push(format!("{label}: the receiver says otherwise"));
            }
            let digest = receipt.digest.split(':').next_back().unwrap_or_default();
            if digest != hex(&entry.digest) || receipt.size != entry.size {
                findings.push(format!("{label}: the receiver has other bytes"));
            }
            // Of an image that is sent again, the receipt tells of the first time.
            if receipt.verified.is_some_and(|at| at != entry.verified) {
                findings.push(format!(
                    "{label}: the image was stored at another time as well"
                ));
            }
            if receipt.status != "quarantined" && receipt.durability != "synced" {
                let durability = &receipt.durability;
                findings.push(format!("{label}: it promises {durability:?} only"));
            }
        }
    }

    /// What has its receipt is not named as lost.
    fn no_answered_image_is_lost(&self, findings: &mut Findings) {
        let answered: BTreeSet<[u8; 16]> = self.receipts.iter().map(|receipt| receipt.id).collect();
        for lost in self
            .outbox
            .lost
            .iter()
            .filter(|lost| answered.contains(&lost.id))
        {
            let (id, reason) = (id_text(&lost.id), &lost.reason);
            findings.push(format!(
                "{id} has its receipt and is named as lost: {reason}"
            ));
        }
    }

    /// Numbers above the last floor that was told are never looked for: before a transmitter leaves
    /// with nothing owed, it says so.
    fn the_receiver_knows_the_last_number(&self, findings: &mut Findings) {
        let Some(outbox) = self.outbox.id.filter(|_| self.outbox.next > 1) else {
            return;
        };
        let (floor, next) = (self.receiver.floors.get(&outbox), self.outbox.next);
        if floor != Some(&next) {
            findings.push(format!(
                "nothing is owed below number {next}, and the receiver was told {floor:?}"
            ));
        }
    }

    /// What the outbox believes to have told, the receiver keeps.
    fn told_losses_are_known(&self, findings: &mut Findings) {
        let known: BTreeSet<[u8; 16]> = self.receiver.losses.iter().map(|loss| loss.id).collect();
        for lost in self.outbox.lost.iter().filter(|lost| lost.told) {
            if !known.contains(&lost.id) {
                let (id, reason) = (id_text(&lost.id), &lost.reason);
                findings.push(format!(
                    "the loss of {id} ({reason}) was told and the receiver does not know it"
                ));
            }
        }
    }

    /// An image is lost only where images give way when the outbox is full, and then only because it
    /// was: these images are never damaged, and nobody drops one by hand.
    fn losses_have_their_reason(&self, expect: Expect, findings: &mut Findings) {
        let own = self.outbox.lost.iter();
        let own = own.map(|lost| (&lost.id, &lost.reason, "transmitter"));
        let told = self.receiver.losses.iter();
        let told = told.map(|loss| (&loss.id, &loss.reason, "receiver"));
        for (id, reason, by) in own.chain(told) {
            let gave_way = expect.gives_way && (reason == EVICTED || reason == DROPPED);
            if !gave_way && !reason.contains(TOO_LARGE) {
                let id = id_text(id);
                findings.push(format!(
                    "{id} is lost without need, says the {by}: {reason:?}"
                ));
            }
        }
    }

    /// What the receiver has and the outbox owes no longer has its line among the receipts: that is
    /// written before the outbox forgets the image.
    fn what_is_settled_has_its_receipt(&self, findings: &mut Findings) {
        let answered = self.receipts.iter().map(|receipt| receipt.id);
        let owed = self.outbox.owed.iter().map(|owed| owed.id);
        let mut accounted: BTreeSet<[u8; 16]> = answered.chain(owed).collect();
        accounted.extend(self.lost());
        for id in self.receiver.entries.keys() {
            if !accounted.contains(id) {
                let id = id_text(id);
                findings.push(format!(
                    "{id} is stored and not owed any more, and has no line among the receipts"
                ));
            }
        }
    }

    /// Every number that anybody names, with the image that has it.
    fn numbers(&self) -> Vec<Numbered> {
        let mut numbers = Vec::new();
        let mut add = |outbox, sequence, id, by| {
            numbers.push(Numbered {
                outbox,
                sequence,
                id,
                by,
            });
        };
        for (id, entry) in &self.receiver.entries {
            add(entry.outbox, entry.sequence, *id, "catalogue");
        }
        for loss in &self.receiver.losses {
            add(loss.outbox, loss.sequence, loss.id, "receiver's losses");
        }
        for owed in &self.outbox.owed {
            add(self.outbox.id, owed.sequence, owed.id, "outbox");
        }
        for lost in &self.outbox.lost {
            add(self.outbox.id, lost.sequence, lost.id, "ledger");
        }
        for receipt in &self.receipts {
            add(receipt.outbox, receipt.sequence, receipt.id, "receipts");
        }
        numbers
    }

    fn numbers_are_given_once(&self, history: &mut History, findings: &mut Findings) {
        for Numbered {
            outbox,
            sequence,
            id,
            by,
        } in self.numbers()
        {
            let Some(outbox) = outbox else {
                let id = id_text(&id);
                findings.push(format!("image {id} has no outbox, says the {by}"));
                continue;
            };
            let other = *history.sequences.entry((outbox, sequence)).or_insert(id);
            if other != id {
                findings.push(format!(
                    "number {sequence} was given twice: to {} and, says the {by}, to {}",
                    id_text(&other),
                    id_text(&id)
                ));
            }
        }
    }

    /// Every number below the next one has an image that somebody knows.
    fn numbers_have_no_gaps(&self, history: &History, findings: &mut Findings) {
        let Some(outbox) = self.outbox.id else {
            return;
        };
        let known: BTreeSet<u64> = self
            .numbers()
            .into_iter()
            .filter(|numbered| numbered.outbox == Some(outbox))
            .map(|numbered| numbered.sequence)
            .collect();
        let mut missing = (1..self.outbox.next)
            .filter(|number| !known.contains(number))
            .peekable();
        while let Some(first) = missing.next() {
            let mut last = first;
            while let Some(next) = missing.next_if_eq(&(last + 1)) {
                last = next;
            }
            let image = history.sequences.get(&(outbox, first));
            let image = image.map_or_else(|| "never seen".to_owned(), id_text);
            findings.push(match first == last {
                true => format!("number {first} was given and nobody has its image ({image})"),
                false => format!(
                    "numbers {first} to {last} were given and nobody has their images ({image})"
                ),
            });
        }
    }

    fn orphans_go(
        &self,
        truth: Option<&Truth>,
        expect: Expect,
        history: &mut History,
        findings: &mut Findings,
    ) {
        let mut looks = BTreeMap::new();
        for (path, content) in &self.receiver.orphans {
            let count = history.orphans.get(path).copied().unwrap_or(0) + 1;
            if expect.receiver_stopped || expect.drained || count > ORPHAN_LOOKS {
                findings.push(format!("{} has no entry", path.display()));
            }
            if truth.is_some_and(|truth| truth.get(content).is_none()) {
                findings.push(format!("{} is visible and incomplete", path.display()));
            }
            looks.insert(path.clone(), count);
        }
        history.orphans = looks;
    }

    fn no_content_is_stored_twice(&self, findings: &mut Findings) {
        let mut seen = BTreeMap::new();
        for (id, entry) in &self.receiver.entries {
            if let Some(content) = entry.content
                && let Some(other) = seen.insert(content, *id)
            {
                let (id, other) = (id_text(id), id_text(&other));
                findings.push(format!("{id} and {other} are stored with the same bytes"));
            }
        }
    }

    fn all_are_somewhere(
        &self,
        truth: &Truth,
        expect: Expect,
        summary: &mut Summary,
        findings: &mut Findings,
    ) {
        let mut stored: BTreeMap<[u8; 32], Vec<[u8; 16]>> = BTreeMap::new();
        for (id, entry) in &self.receiver.entries {
            let Some(content) = entry.content else {
                continue;
            };
            match truth.get(&content) {
                None => {
                    let id = id_text(id);
                    findings.push(format!("image {id} is stored and was never captured"));
                }
                Some(known) if known.is_proper == entry.quarantined => {
                    let (label, is) = match entry.quarantined {
                        true => (&known.label, "a proper image and kept apart"),
                        false => (&known.label, "no proper image and stored as one"),
                    };
                    findings.push(format!("{label} is {is}"));
                }
                Some(_) => {}
            }
            stored.entry(content).or_default().push(*id);
        }
        for (content, known) in truth.all() {
            let mut ids: BTreeSet<[u8; 16]> = BTreeSet::new();
            let at_receiver = stored.get(content).map(Vec::as_slice).unwrap_or_default();
            ids.extend(at_receiver);
            let owed = self.outbox.owed.iter();
            ids.extend(
                owed.filter(|owed| owed.content == Some(*content))
                    .map(|owed| owed.id),
            );
            let is_it = |digest: &Option<Vec<u8>>| digest.as_deref().is_some_and(|of| known.is(of));
            let lost = self.outbox.lost.iter().filter(|lost| is_it(&lost.digest));
            let told = self
                .receiver
                .losses
                .iter()
                .filter(|loss| is_it(&loss.digest));
            ids.extend(lost.map(|lost| lost.id).chain(told.map(|loss| loss.id)));
            if at_receiver.len() > 1 {
                let (label, count) = (&known.label, at_receiver.len());
                findings.push(format!("{label} is stored {count} times"));
            } else if ids.len() > 1 {
                let ids: Vec<String> = ids.iter().map(id_text).collect();
                let label = &known.label;
                findings.push(format!(
                    "{label} was captured more than once: {}",
                    ids.join(", ")
                ));
            }
            if ids.is_empty() && known.is_sure {
                summary.to_come += 1;
                if expect.drained {
                    findings.push(format!(
                        "{} is neither stored nor named as lost",
                        known.label
                    ));
                }
            }
        }
    }
}
