//! The password file, `~/.pgpass` (Postgres manual, "The Password File").

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use secrecy::SecretString;

use super::dsn::{Dsn, Host, Place};

/// The password for `host`: that of the connection string, otherwise the first line of the password file that matches.
/// The file is read at each connect, so a rotated password takes effect.
pub(in crate::postgres) fn password(dsn: &Dsn, host: &Host) -> Option<SecretString> {
    if dsn.password.is_some() {
        return dsn.password.clone();
    }
    let path = dsn.passfile.as_deref()?;
    let text = read(path)?;
    let name = match &host.place {
        Place::Directory(directory) if is_default(directory) => "localhost",
        _ => &host.name,
    };
    find(&text, [name, &host.port.to_string(), &dsn.database, &dsn.user]).map(SecretString::from)
}

fn is_default(directory: &Path) -> bool {
    directory == Path::new("/var/run/postgresql") || directory == Path::new("/tmp")
}

/// Ignores a file that others can read, as libpq does: it is no place for a password.
fn read(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        tracing::warn!(path = %path.display(), "the password file is ignored: it is not a plain file");
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        let (path, mode) = (path.display(), format!("{:o}", metadata.mode() & 0o777));
        tracing::warn!(%path, mode, "the password file is ignored: others can read it; chmod 600 it");
        return None;
    }
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the password file is ignored: it cannot be read");
            None
        }
    }
}

/// The password of the first line whose four fields match; `*` matches anything.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = split(line);
        let (password, fields) = fields.split_last()?;
        let matches = |(field, wanted): (&String, &str)| field == "\u{0}*" || field == wanted;
        (fields.len() == 4 && fields.iter().zip(wanted).all(matches)).then(|| password.clone())
    })
}

/// Splits at colons into four fields and the rest, which is the password. A backslash makes the next character literal.
/// A bare `*` is marked with a NUL, so that `\*` matches only itself.
fn split(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut escaped = false;
    let mut literal = false;
    for c in line.chars() {
        let count = fields.len();
        let Some(field) = fields.last_mut() else { break };
        match c {
            '\\' if !escaped => {
                escaped = true;
                literal = true;
                continue;
            }
            ':' if !escaped && count < 5 => {
                if field == "*" && !literal {
                    "\u{0}*".clone_into(field);
                }
                literal = false;
                fields.push(String::new());
            }
            c => field.push(c),
        }
        escaped = false;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n\
        db.internal:5432:app:coherd:first\n\
        db.internal:*:*:coherd:second\n\
        h\\:1:5432:app:co\\\\herd:with\\::colons \n\
        \\*:1:a:b:literal star\n\
        *:*:*:*:anything";

    #[test]
    fn the_first_matching_line_wins() {
        assert_eq!(find(FILE, ["db.internal", "5432", "app", "coherd"]).unwrap(), "first");
        assert_eq!(find(FILE, ["db.internal", "5433", "app", "coherd"]).unwrap(), "second");
        assert_eq!(find(FILE, ["elsewhere", "5433", "app", "x"]).unwrap(), "anything");
        assert_eq!(find("a:1:b:c:d", ["a", "1", "b", "x"]), None);
        assert_eq!(find("a:1:b\n", ["a", "1", "b", "x"]), None);
    }

    #[test]
    fn a_backslash_takes_the_next_character_as_it_is() {
        assert_eq!(find(FILE, ["h:1", "5432", "app", "co\\herd"]).unwrap(), "with::colons ");
        assert_eq!(find(FILE, ["*", "1", "a", "b"]).unwrap(), "literal star");
        assert_eq!(find(FILE, ["other", "1", "a", "b"]).unwrap(), "anything");
    }

    #[test]
    fn a_file_that_others_can_read_is_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pass");
        std::fs::write(&path, "*:*:*:*:secret").unwrap();
        let text = format!("host=h user=u passfile={}", path.display());
        let dsn = Dsn::parse(&text, &|_| None).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(password(&dsn, &dsn.hosts[0]).is_none());
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(password(&dsn, &dsn.hosts[0]).is_some());
    }
}
