//! The syntax of cron schedules, as robfig/cron's standard parser reads them.

/// `(name, lowest, highest)` of the five fields.
const FIELDS: [(&str, u32, u32); 5] =
    [("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 6)];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const MACROS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// Whether the text is a schedule; else what is wrong.
pub fn check(schedule: &str) -> Result<(), String> {
    let mut rest = schedule;
    if rest.starts_with("TZ=") || rest.starts_with("CRON_TZ=") {
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest).trim();
    }
    if rest.starts_with('@') {
        return descriptor(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields
        .iter()
        .zip(FIELDS)
        .try_for_each(|(text, (_, low, high))| text.split(',').try_for_each(|part| range(part, low, high)))
}

fn descriptor(text: &str) -> Result<(), String> {
    if let Some(every) = text.strip_prefix("@every ") {
        return match crate::duration::parse(every) {
            Some(_) => Ok(()),
            None => Err(format!("failed to parse duration {text}: time: invalid duration \"{every}\"")),
        };
    }
    if MACROS.contains(&text) {
        return Ok(());
    }
    Err(format!("unrecognized descriptor: {text}"))
}

fn range(text: &str, low: u32, high: u32) -> Result<(), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let single = ends.len() == 1;
    let (start, mut end) = match ends[..] {
        ["*" | "?"] => (low, high),
        [one] => {
            let value = number(one, low, high)?;
            (value, value)
        }
        ["*" | "?", _] => return Err(format!("too many hyphens: {text}")),
        [from, to] => (number(from, low, high)?, number(to, low, high)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    match parts[..] {
        [_] => {}
        [_, step] => {
            let step: u32 = step.parse().map_err(|_| format!("failed to parse int from {step}: invalid syntax"))?;
            if single && !matches!(ends[0], "*" | "?") {
                end = high;
            }
            if step == 0 {
                return Err(format!("step of range should be a positive number: {text}"));
            }
        }
        _ => return Err(format!("too many slashes: {text}")),
    }
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {text}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {text}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    Ok(())
}

fn number(text: &str, low: u32, high: u32) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    let named = match (low, high) {
        (1, 12) => MONTHS.iter().position(|one| *one == lower).map(|at| at as u32 + 1),
        (0, 6) => DAYS.iter().position(|one| *one == lower).map(|at| at as u32),
        _ => None,
    };
    if let Some(value) = named {
        return Ok(value);
    }
    text.parse()
        .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing \"{text}\": invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 * * * *",
            "0 0 1-15/2 jan,feb mon-fri",
            "@hourly",
            "@every 1h30m",
            "0 0 ? * 0",
            "5/15 * * * *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "* * 0 * *",
            "* * * 13 *",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "@never",
            "@every x",
            "1-2-3 * * * *",
            "* * * * 7",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert_eq!(check("* *"), Err("expected exactly 5 fields, found 2: [* *]".into()));
    }
}
