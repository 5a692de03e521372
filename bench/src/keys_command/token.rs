//! Tokens.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use shared::security::access::Scopes;
use shared::security::tokens::{NewToken, TokenKey};
use shared::settings::label;

use super::folder::{Existing, Folder, Readers, write};
use super::{KeysError, print};
use crate::cli::keys::Token;

/// Makes a token.
pub(super) fn token(folder: &Folder, options: &Token) -> Result<ExitCode, KeysError> {
    label(&options.subject).map_err(|problem| KeysError::Usage(format!("--subject: {problem}")))?;
    let path = options.key.clone().unwrap_or_else(|| folder.token_key());
    if !path.exists() {
        return Err(KeysError::Refused(format!(
            "{}: there is no key; make one with `pantelegraph keys init`, or name another with --key",
            path.display()
        )));
    }
    let key = TokenKey::read(&path).map_err(KeysError::Refused)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let expires = now.checked_add(options.expires).map(|time| time.as_secs());
    let expires = expires
        .filter(|_| options.expires.as_secs() > 0)
        .ok_or_else(|| KeysError::Usage("--expires must be at least a second".to_owned()))?;
    let scopes = options
        .scope
        .iter()
        .copied()
        .fold(Scopes::NONE, Scopes::with);
    let token = key.sign(&NewToken {
        subject: &options.subject,
        audience: Some(&options.audience),
        scope: &scopes.to_string(),
        not_before: None,
        issued: Some(now.as_secs()),
        expires,
    });
    let token = token.map_err(|problem| KeysError::Content { path, problem })?;
    let text = format!("{token}\n");
    match &options.output {
        None => print(&text),
        Some(path) => {
            write(
                path,
                text.as_bytes(),
                Readers::Owner,
                Existing::replaced(options.force),
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
