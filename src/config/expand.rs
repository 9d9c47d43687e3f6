//! Expands `${VAR}` and `${VAR:-default}` inside one value.

/// Replaces variables with values from `env`. `None` if there is nothing to replace.
///
/// A variable is `[A-Z_][A-Z0-9_]*`: `${id}` is a dollar sign and a placeholder of a key template, and stays. `$${` is
/// a literal `${`. As in a shell, `:-` also applies to a variable that is set but empty.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let length = after.bytes().take_while(|&b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_').count();
        let (name, tail) = after.split_at(length);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || tail.starts_with(char::is_alphanumeric)
        {
            out.push_str("${");
            rest = after;
            continue;
        }
        rest = variable(name, tail, env, &mut out)?;
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// Appends the value of `name` to `out` and returns the text after the closing brace.
fn variable<'a>(
    name: &str,
    tail: &'a str,
    env: &dyn Fn(&str) -> Option<String>,
    out: &mut String,
) -> Result<&'a str, String> {
    let wrong = || {
        format!(
            "`${{{name}` does not end as a variable does; write ${{{name}}} or ${{{name}:-default}}, and $${{ for a literal ${{"
        )
    };
    if let Some(rest) = tail.strip_prefix('}') {
        let value = env(name).ok_or_else(|| {
            format!("the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        })?;
        out.push_str(&value);
        return Ok(rest);
    }
    let (default, rest) = tail.strip_prefix(":-").and_then(|tail| tail.split_once('}')).ok_or_else(wrong)?;
    match env(name).filter(|value| !value.is_empty()) {
        Some(value) => out.push_str(&value),
        None => out.push_str(default),
    }
    Ok(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Result<String, String> {
        let env = |name: &str| match name {
            "HOST" => Some("db: #1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, &env).map(|out| out.unwrap_or_else(|| text.to_owned()))
    }

    #[test]
    fn variables_and_defaults_are_put_in_and_the_rest_stays() {
        for (text, want) in [
            ("a", "a"),
            ("${HOST}", "db: #1"),
            ("x${HOST}y${HOST}", "xdb: #1ydb: #1"),
            ("${MISSING:-5}", "5"),
            ("${MISSING:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-7}", "7"),
            ("$${HOST}", "${HOST}"),
            ("cost:${id}", "cost:${id}"),
            ("cost:$${id}", "cost:${id}"),
            ("${Host}", "${Host}"),
            ("${1A}", "${1A}"),
            ("$HOST $ {HOST} ${", "$HOST $ {HOST} ${"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn an_unset_variable_and_an_open_brace_say_what_to_write() {
        insta::assert_snapshot!(expanded("${MISSING}").unwrap_err(), @"the environment variable MISSING is not set; set it, or write ${MISSING:-default}");
        insta::assert_snapshot!(expanded("${HOST").unwrap_err(), @"`${HOST` does not end as a variable does; write ${HOST} or ${HOST:-default}, and $${ for a literal ${");
        assert!(expanded("${HOST?no}").is_err());
    }

    #[test]
    fn a_value_is_not_expanded_a_second_time() {
        let env = |_: &str| Some("${HOST}".to_owned());
        assert_eq!(expand("${A}", &env), Ok(Some("${HOST}".to_owned())));
    }
}
