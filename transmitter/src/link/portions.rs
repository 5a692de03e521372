//! Losses in messages that a receiver takes.

use shared::wire::{Loss, Standing};

/// Bytes of one message at most, if the receiver takes that much.
const PORTION: u64 = 256 << 10;

/// Bytes that the encoding of a loss takes besides its texts, at most: tags, lengths, numbers, id,
/// digest.
const LOSS: u64 = 160;

/// Cuts `losses` into messages of at most `limit` bytes (0: not known), at least one. Only the last
/// one says where the outbox stands, because that says that all losses below its `first_owed` were
/// told.
pub(super) fn portions(
    losses: Vec<Loss>,
    standing: Standing,
    limit: u64,
) -> Vec<(Vec<Loss>, Standing)> {
    let limit = if limit == 0 {
        PORTION
    } else {
        limit.min(PORTION)
    };
    // Half of it: what surrounds the losses has its room, too.
    let room = limit / 2;
    let mut portions = Vec::new();
    let (mut portion, mut size) = (Vec::new(), 0);
    for loss in losses {
        let len = LOSS + (loss.reason.len() + loss.run.len()) as u64;
        if size + len > room && !portion.is_empty() {
            portions.push((
                std::mem::take(&mut portion),
                Standing::unsaid(standing.outbox),
            ));
            size = 0;
        }
        size += len;
        portion.push(loss);
    }
    portions.push((portion, standing));
    portions
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::clock::UnixNanos;
    use shared::digest::DigestAlgorithm;
    use shared::image::{ImageId, OutboxId};
    use shared::wire::{LossReport, encode_losses};

    fn loss(sequence: u64) -> Loss {
        Loss {
            sequence,
            image_id: ImageId::new(),
            digest: Some(DigestAlgorithm::Blake3.digest(b"image")),
            reason: "given up after 3 attempts".to_owned(),
            at: UnixNanos(i64::MAX),
            run: "run".to_owned(),
        }
    }

    #[test]
    fn all_losses_are_told_in_order_and_the_standing_with_the_last() {
        let standing = Standing {
            outbox: OutboxId::new(),
            first_owed: u64::MAX,
            next_sequence: u64::MAX,
        };
        let most = u64::MAX - 10_000;
        let losses: Vec<Loss> = (most..u64::MAX).map(loss).collect();
        for limit in [0, 1, 1_000, 64 << 10, u64::MAX] {
            let portions = portions(losses.clone(), standing, limit);
            let mut standings: Vec<Standing> = portions.iter().map(|(_, said)| *said).collect();
            assert_eq!(standings.pop(), Some(standing));
            let unsaid = Standing::unsaid(standing.outbox);
            assert!(standings.iter().all(|said| *said == unsaid));
            let mut told = Vec::new();
            for (losses, standing) in portions {
                let one = losses.len() == 1;
                told.extend(losses.clone());
                let report = LossReport {
                    id: u64::MAX,
                    standing: Some(standing),
                    losses,
                    transmitter: "camera".to_owned(),
                };
                let len = encode_losses(report).len() as u64;
                assert!(one || limit == 0 || len <= limit, "{len} bytes of {limit}");
            }
            assert_eq!(told, losses);
        }
    }

    #[test]
    fn where_the_outbox_stands_is_told_without_losses_too() {
        let standing = Standing {
            outbox: OutboxId::new(),
            first_owed: 1,
            next_sequence: 1,
        };
        assert_eq!(portions(Vec::new(), standing, 0), [(Vec::new(), standing)]);
    }
}
