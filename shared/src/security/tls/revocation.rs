//! Whether lists of revoked certificates are of the CAs that are trusted.
//!
//! A list of somebody else verifies like any other when it is read; but from then on nobody of a CA
//! without a list is let in, since nobody knows who of them is revoked.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{BorrowedCertRevocationList, CertRevocationList, EndEntityCert};

/// Of these CAs, those without a list in `lists`: their places in the order in which they are given.
pub(super) fn without_list(
    authorities: &[CertificateDer<'_>],
    lists: &[CertificateRevocationListDer<'_>],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Vec<usize> {
    let covered = |authority: &CertificateDer<'_>| {
        let mut lists = lists.iter();
        lists.any(|list| is_of(list, authority, algorithms) == Some(true))
    };
    let places = authorities.iter().enumerate();
    places
        .filter(|(_, authority)| !covered(authority))
        .map(|(place, _)| place)
        .collect()
}

/// Whether this CA has signed this list; `None` when one of them cannot be read.
fn is_of(
    list: &CertificateRevocationListDer<'_>,
    authority: &CertificateDer<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Option<bool> {
    let read = CertRevocationList::from(BorrowedCertRevocationList::from_der(list).ok()?);
    let authority = EndEntityCert::try_from(authority).ok()?;
    if read.issuer() != authority.subject() {
        return Some(false);
    }
    // A CA that was made anew under its old name has another key.
    let (signed, signature) = parts(list)?;
    let mut algorithms = algorithms.all.iter();
    Some(algorithms.any(|algorithm| {
        let verified = authority.verify_signature(*algorithm, signed, signature);
        verified.is_ok()
    }))
}

/// What is signed in a list, and the signature (RFC 5280, section 5.1: a sequence of what is signed, the
/// algorithm, and a string of bits).
fn parts(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, _) = element(list)?;
    let (_, rest) = element(content)?;
    let signed = content.get(..content.len() - rest.len())?;
    let (_, rest) = element(rest)?;
    let (bits, _) = element(rest)?;
    // Its first byte says how many bits of the last one do not count: none, in a signature.
    let (unused, signature) = bits.split_first()?;
    (*unused == 0).then_some((signed, signature))
}

/// The content of the first element of DER, and what comes after it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let digits = usize::from(first & 0x7f);
        if digits == 0 || digits > 4 {
            return None;
        }
        let (length, rest) = rest.split_at_checked(digits)?;
        let length = length
            .iter()
            .fold(0, |sum: usize, byte| sum << 8 | usize::from(*byte));
        (length, rest)
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    #[test]
    fn elements_end_where_they_say_or_are_none() {
        assert_eq!(element(&[4, 1, 7, 9]), Some((&[7][..], &[9][..])));
        assert_eq!(element(&[4, 0x81, 1, 7]), Some((&[7][..], &[][..])));
        let long: Vec<u8> = [4, 0x82, 1, 0].into_iter().chain([5; 256]).collect();
        assert_eq!(element(&long).unwrap().0.len(), 256);
        for broken in [
            &[][..],
            &[4],
            &[4, 2, 7],
            &[4, 0x80, 7],
            &[4, 0x82, 1],
            &[4, 0x85, 0, 0, 0, 0, 1, 7],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff, 7],
        ] {
            assert_eq!(element(broken), None, "{broken:?}");
        }
        assert_eq!(parts(&[0x30, 0]), None);
        assert_eq!(parts(&[0x30, 4, 4, 0, 4, 0]), None);
        assert_eq!(parts(&[0x30, 6, 4, 0, 4, 0, 3, 0]), None);
    }
}
