//! `date`: a date or a time in the words of `strftime`, for keys of a day, a month or an hour.

use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::{Apply, Filter, Kind};

pub(super) const DATE: Filter = Filter {
    name: "date",
    argument: "FORMAT[@ZONE]",
    about: "a date or a timestamp by strftime's letters (%Y-%m-%d, %G-W%V), in UTC or in ZONE (Europe/Berlin)",
    kind: Kind::Argued(prepare),
};

fn prepare(argument: Option<&str>) -> Result<Arc<Apply>, String> {
    let argument = argument.filter(|argument| !argument.is_empty());
    let argument = argument.ok_or("date needs a format, as strftime reads it: date:%Y-%m")?;
    let (format, zone) = argument.rsplit_once('@').map_or((argument, None), |(format, zone)| (format, Some(zone)));
    let zone = match zone {
        None => TimeZone::UTC,
        Some(name) => TimeZone::get(name)
            .map_err(|_| format!("there is no time zone {name:?}; write one of the IANA database: Europe/Berlin"))?,
    };
    let format = format.to_owned();
    write(&format, &Timestamp::UNIX_EPOCH.to_zoned(zone.clone()), &mut Vec::new())
        .map_err(|error| format!("date cannot write {format:?}: {error}"))?;
    Ok(Arc::new(move |input, out| {
        let begin = out.len();
        let is_written = read(input, &zone).is_some_and(|time| write(&format, &time, out).is_ok());
        if !is_written {
            out.truncate(begin);
        }
        is_written
    }))
}

fn write(format: &str, time: &Zoned, out: &mut Vec<u8>) -> Result<(), jiff::Error> {
    BrokenDownTime::from(time).format(format, out)
}

/// Reads what Postgres prints for a date or a timestamp with `DateStyle` ISO and `TimeZone` UTC. A timestamp without a
/// zone counts as UTC, and a date has no zone. `None` for infinity, and for years before 1 or after 9999.
fn read(text: &[u8], zone: &TimeZone) -> Option<Zoned> {
    let text = std::str::from_utf8(text).ok()?;
    let Some((_, time)) = text.split_once([' ', 'T']) else {
        let date: jiff::civil::Date = text.parse().ok()?;
        return date.to_zoned(TimeZone::UTC).ok();
    };
    // `+00` behind the time, or `-05:30`; a JSON value may have a Z.
    let offset = time.find(['+', '-', 'Z']).map(|at| time.split_at(at).1);
    let civil: DateTime = text.strip_suffix(offset.unwrap_or_default())?.parse().ok()?;
    let time = match offset {
        None | Some("Z") => Offset::UTC.to_timestamp(civil),
        Some(offset) => seconds(offset)?.to_timestamp(civil),
    };
    Some(time.ok()?.to_zoned(zone.clone()))
}

/// `+HH`, `+HH:MM` or `+HH:MM:SS`.
fn seconds(offset: &str) -> Option<Offset> {
    let (sign, digits) = offset.split_at_checked(1)?;
    let mut total = 0;
    for (part, unit) in digits.split(':').zip([3600, 60, 1]) {
        total += part.parse::<i32>().ok().filter(|part| (0..60).contains(part))? * unit;
    }
    Offset::from_seconds(if sign == "-" { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use crate::rules::filter::tests::{error, text};

    #[test]
    fn dates_and_timestamps_as_postgres_prints_them() {
        for (argument, input, expected) in [
            ("%Y-%m-%d", "2026-02-03", Some("2026-02-03")),
            ("%Y/%m", "2026-12-31 23:59:59.999999", Some("2026/12")),
            ("%Y%m%d%H", "2026-02-03 04:05:06.7+00", Some("2026020304")),
            ("%G-W%V", "2027-01-01", Some("2026-W53")),
            ("%s", "2026-02-03 04:05:06+00", Some("1770091506")),
            ("%Y-%m-%d %H@Europe/Berlin", "2026-07-31 23:30:00+00", Some("2026-08-01 01")),
            ("%Y-%m-%d@America/New_York", "2026-02-03 04:05:06", Some("2026-02-02")),
            // A date stays that date in every zone.
            ("%Y-%m-%d@America/New_York", "2026-02-03", Some("2026-02-03")),
            ("%H:%M", "2026-02-03 04:05:06-05:30", Some("09:35")),
            ("%H:%M", "2026-02-03T04:05:06Z", Some("04:05")),
            ("%Y", "0001-01-01", Some("0001")),
            ("%Y", "infinity", None),
            ("%Y", "-infinity", None),
            ("%Y", "0044-03-15 BC", None),
            ("%Y", "10000-01-01", None),
            ("%Y", "", None),
            ("%Y", "04:05:06", None),
            ("%Y", "{\"a\":1}", None),
        ] {
            assert_eq!(text(&format!("date:{argument}"), input).as_deref(), expected, "{argument} {input}");
        }
    }

    #[test]
    fn a_format_or_a_zone_that_does_not_exist_is_refused() {
        insta::assert_snapshot!(error("date", None), @"date needs a format, as strftime reads it: date:%Y-%m");
        insta::assert_snapshot!(error("date", Some("%Y@Europe/Berlim")), @r#"there is no time zone "Europe/Berlim"; write one of the IANA database: Europe/Berlin"#);
        assert!(error("date", Some("%Y-%")).starts_with("date cannot write \"%Y-%\": "));
    }
}
