//! Access control as the settings want it: the file with the users, read and followed.
//!
//! Invariant: a file that cannot be used is refused at the start and ignored later: the users read
//! before stay in force. What stands in it is wiped once it was read, and never logged.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::access::{Access, Users};
use crate::config::{Config, UsersFile};
use crate::error::Error;
use crate::upstream::tls::files::Files;

/// What clients may do; a task keeps it current. `None`: everything.
pub(super) type Rules = watch::Receiver<Option<Arc<Access>>>;

/// Longest password taken (bytes); more is the wrong file.
const MAX_PASSWORD: usize = 4096;

/// Reads the users, if there are to be some, and follows their file.
pub(super) async fn follow(config: &Config) -> Result<Rules, Error> {
    let deny = config.access.deny.clone();
    let Some(file) = config.access.users.clone() else {
        let rules = (!deny.is_empty()).then(|| Arc::new(Access { users: None, deny }));
        return Ok(watch::channel(rules).1);
    };
    let (flag, path) = match &file {
        UsersFile::Password(path) => ("--client-password-file", path),
        UsersFile::Acl(path) => ("--client-acl-file", path),
    };
    let shown = path.display().to_string();
    let mut files = Files::new(vec![path.clone()]);
    let users = read(&mut files, &file).await.map_err(|cause| {
        let what = match &file {
            UsersFile::Password(_) => "write one password into it, on one line",
            UsersFile::Acl(_) => {
                "give lines such as 'user alice on #<sha256 of the password> ~app:* +@read'"
            }
        };
        Error::config(format_args!("{flag} {shown} cannot be used: {cause}; {what}"))
    })?;
    warn_of(&users, flag, path);
    let of = move |users| Some(Arc::new(Access { users: Some(users), deny: deny.clone() }));
    let (sender, receiver) = watch::channel(of(users));
    tokio::spawn(async move {
        let mut failing = false;
        loop {
            files.changed().await;
            match read(&mut files, &file).await {
                Ok(users) => {
                    failing = false;
                    tracing::info!(file = %shown, "users of clients read again ({flag})");
                    if sender.send(of(users)).is_err() {
                        return;
                    }
                }
                Err(cause) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(file = %shown, "{flag} cannot be used: {cause}; the users read before stay in force");
                    }
                }
            }
        }
    });
    Ok(receiver)
}

async fn read(files: &mut Files, file: &UsersFile) -> Result<Users, String> {
    let contents = files.read().await.map_err(|e| e.to_string())?;
    let content = contents.first().map_or(&[][..], |content| content);
    match file {
        UsersFile::Password(_) => password(content).map(Users::with_password),
        UsersFile::Acl(_) => Users::parse(content),
    }
}

/// The password in a file, without blanks and line breaks around it.
fn password(content: &[u8]) -> Result<&[u8], String> {
    let password = content.trim_ascii();
    if password.is_empty() {
        return Err("it is empty".to_owned());
    }
    if password.len() > MAX_PASSWORD {
        return Err(format!("it has more than {MAX_PASSWORD} bytes"));
    }
    if password.iter().any(u8::is_ascii_control) {
        return Err("it has several lines, or control characters".to_owned());
    }
    Ok(password)
}

/// Says what is permitted and perhaps not meant.
fn warn_of(users: &Users, flag: &str, path: &Path) {
    let default = users.default_user();
    let file = path.display();
    if default.is_open() && default.is_unrestricted() {
        tracing::warn!(
            %file,
            "{flag}: the user 'default' has every permission and no password, so that whoever connects may do \
             everything; add 'user default off', or give it a password"
        );
    }
    let scripts: Vec<&str> =
        users.iter().filter(|user| user.scripts_may_escape()).map(|user| user.name()).collect();
    if !scripts.is_empty() {
        tracing::warn!(
            %file,
            users = %scripts.join(", "),
            "{flag}: these users are limited but may run scripts, which the proxy cannot look into: a script may \
             run every command on every key; add -@scripting if that is not meant"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::password;

    #[test]
    fn a_password_is_one_line() {
        assert_eq!(password(b" two words \r\n"), Ok(&b"two words"[..]));
        for wrong in [&b""[..], b" \n", b"one\ntwo", &[b'x'; 4097]] {
            let says = password(wrong).expect_err("not a password");
            assert!(!says.contains("one"), "{says}");
        }
    }
}
