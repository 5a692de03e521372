//! What to do when a receiver turns this side away.

use super::Shown;

/// The fix for the words of a receiver.
pub(super) fn fix(words: &str, known: bool, shown: &Shown) -> String {
    let name = &shown.name;
    let token = format!(
        "where the keys are: `pantelegraph keys token --subject {name} --scope upload --expires 90d --output {name}.token`, \
         then here --token-file {name}.token (chmod 600)"
    );
    let lower = words.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    // Alerts of TLS come with advice of their own.
    if let Some((_, advice)) = words.split_once("; ") {
        let issue = format!("`pantelegraph keys issue transmitter {name}` makes one");
        return format!("{advice}; {issue}");
    }
    if has("certificate") && has("another station") {
        return "show the token and the certificate of one station: --token-file and --tls-cert"
            .to_owned();
    }
    if has("missing client certificate") || has("names no station") {
        return format!(
            "where the keys are: `pantelegraph keys issue transmitter {name}`, then here --tls-cert, --tls-key and \
             --tls-ca with the files of keys/{name}"
        );
    }
    if has("missing token") {
        return token;
    }
    if has("expired") {
        return format!("show a new token; {token}");
    }
    if has("not valid yet") {
        return "compare the clocks of both stations, or wait until the token's time (nbf)"
            .to_owned();
    }
    if has("lacks the scope") {
        return format!("show one that may upload; {token}");
    }
    if has("signature") || has("signed with") {
        return format!(
            "the receiver's --token-key-file is not the key that signed it: copy keys/token.pub there, or sign anew; \
             {token}"
        );
    }
    if has("audience") {
        return format!(
            "make the token with the --audience that the receiver's --token-audience says; {token}"
        );
    }
    if has("may bring in only") {
        return "give --name the name in the token or certificate, or show one that is made for this name".to_owned();
    }
    match known {
        true => "give --name the name in the token or certificate, which has to allow uploads"
            .to_owned(),
        false if shown.token.is_some() => format!("show another token; {token}"),
        false => token,
    }
}

#[cfg(test)]
mod tests {
    use shared::security::access::{Denied, Scope, Unknown};

    use super::*;

    #[test]
    fn every_reason_has_its_fix() {
        let shown = Shown {
            name: "cam-1".to_owned(),
            ..Shown::default()
        };
        let scope = Denied::Scope {
            name: "cam-1".to_owned(),
            needs: Scope::Upload,
        };
        let other = Denied::Other {
            name: "cam-1".to_owned(),
            claimed: "cam-2".to_owned(),
        };
        for (denied, part) in [
            (
                Unknown::MissingToken.into(),
                "keys token --subject cam-1 --scope upload",
            ),
            (
                Unknown::MissingCertificate.into(),
                "keys issue transmitter cam-1",
            ),
            (
                Unknown::NamelessCertificate.into(),
                "keys issue transmitter cam-1",
            ),
            (Unknown::Expired.into(), "a new token"),
            (Unknown::NotYetValid.into(), "compare the clocks"),
            (Unknown::Signature.into(), "keys/token.pub"),
            (Unknown::Algorithm("EdDSA").into(), "keys/token.pub"),
            (Unknown::Audience.into(), "--audience"),
            (Unknown::Mismatch.into(), "of one station"),
            (scope, "may upload"),
            (other, "give --name"),
        ] {
            let words = denied.to_string();
            let fix = fix(&words, !matches!(denied, Denied::Unknown(_)), &shown);
            assert!(fix.contains(part), "{words}: {fix}");
        }
    }
}
