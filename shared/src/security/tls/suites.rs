//! Ciphers, and which comes first.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, ring};

/// What connections are encrypted with. AES with 128 bits before 256, which are no safer here and slower;
/// ChaCha20 before both where the processor has no instructions for AES, which is then several times
/// slower and tells by its timing what it encrypts.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let hardware = has_aes();
    provider
        .cipher_suites
        .sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 if hardware => 2,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => 0,
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 1,
            _ => 3,
        });
    Arc::new(provider)
}

/// Whether the processor has instructions for AES.
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[allow(
        unreachable_code,
        reason = "other processors have none, or none that can be asked for"
    )]
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_cipher_comes_first() {
        let suites: Vec<_> = provider()
            .cipher_suites
            .iter()
            .map(rustls::SupportedCipherSuite::suite)
            .collect();
        assert_eq!(suites.len(), 3, "TLS 1.3 only");
        let first = if has_aes() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        };
        assert_eq!(suites.first(), Some(&first));
    }
}
