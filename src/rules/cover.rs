//! Whether globs match every key that a template can make. A flush removes what the rule's globs match, so a key that
//! no glob matches would stay in the cache.
//!
//! Globs and templates are sequences of byte sets ([`Shape`]). The search walks all keys at once, byte by byte, and
//! pairs a place in the template with all places that the globs can be at. If it reaches the template's end while no
//! glob is at its end, the globs miss that key (subset construction, as when a regular expression is made
//! deterministic).

use std::collections::HashSet;

use super::shape::Shape;
use crate::types::pattern::ByteSet;

/// The most steps before the answer is "not known": globs with many `?` after a `*` have exponentially many places.
/// Globs that people write need a few hundred steps.
const STEPS_MAX: usize = 20_000;

/// Places in the globs: (glob, place), ascending.
type Places = Vec<(usize, usize)>;

/// Whether at least one of `globs` matches each key of `template`. Also `false` if [`STEPS_MAX`] steps do not decide
/// it.
pub fn cover(globs: &[Shape], template: &Shape) -> bool {
    let classes = classes(globs.iter().chain([template]));
    let mut seen = HashSet::new();
    let mut open = vec![(0, closed(globs, (0..globs.len()).map(|glob| (glob, 0)).collect()))];
    while let Some((place, places)) = open.pop() {
        if !seen.insert((place, places.clone())) {
            continue;
        }
        if seen.len() > STEPS_MAX {
            return false;
        }
        let Some(unit) = template.units().get(place) else {
            if !places.iter().any(|(glob, at)| globs.get(*glob).is_some_and(|glob| *at == glob.units().len())) {
                return false;
            }
            continue;
        };
        if unit.repeated {
            open.push((place + 1, places.clone()));
        }
        for byte in classes.iter().filter(|byte| unit.bytes.has(**byte)) {
            open.push((place + usize::from(!unit.repeated), after(globs, &places, *byte)));
        }
    }
    true
}

/// Where the globs can be after `byte`.
fn after(globs: &[Shape], places: &Places, byte: u8) -> Places {
    let step = |&(glob, at): &(usize, usize)| {
        let unit = globs.get(glob)?.units().get(at)?;
        unit.bytes.has(byte).then_some((glob, at + usize::from(!unit.repeated)))
    };
    closed(globs, places.iter().filter_map(step).collect())
}

/// Adds the places that need no byte, because a repeated unit may match none.
fn closed(globs: &[Shape], mut places: Places) -> Places {
    let mut index = 0;
    while let Some(&(glob, at)) = places.get(index) {
        if globs.get(glob).and_then(|glob| glob.units().get(at)).is_some_and(|unit| unit.repeated) {
            places.push((glob, at + 1));
        }
        index += 1;
    }
    places.sort_unstable();
    places.dedup();
    // From a `*`, every later place of the glob can be reached at any time, so places before it add nothing.
    let star = |&(glob, at): &(usize, usize)| {
        let unit = globs.get(glob).and_then(|glob| glob.units().get(at));
        unit.is_some_and(|unit| unit.repeated && unit.bytes == ByteSet::ALL)
    };
    let stars: Vec<(usize, usize)> = places.iter().copied().filter(star).collect();
    places.retain(|&(glob, at)| !stars.iter().any(|&(of, star)| of == glob && star > at));
    places
}

/// One byte of each class of bytes that no unit tells apart.
fn classes<'a>(shapes: impl Iterator<Item = &'a Shape>) -> Vec<u8> {
    let mut sets: Vec<ByteSet> = shapes.flat_map(Shape::units).map(|unit| unit.bytes).collect();
    sets.sort_unstable();
    sets.dedup();
    let mut told_apart = HashSet::new();
    (0..=u8::MAX).filter(|byte| told_apart.insert(sets.iter().map(|set| set.has(*byte)).collect::<Vec<_>>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::template::Template;
    use crate::types::table::TableName;

    fn covered(globs: &[&str], template: &str) -> bool {
        let table = TableName { schema: "public".into(), name: "users".into() };
        let globs: Vec<Shape> = globs.iter().map(|glob| Shape::of_glob(glob)).collect();
        cover(&globs, &Shape::of_any_text(&Template::parse(template, &table).unwrap()))
    }

    #[test]
    fn a_glob_covers_a_template_where_it_matches_whatever_the_columns_hold() {
        for (glob, template, expected) in [
            ("user:*", "user:{id}", true),
            ("user:*", "user:by-email:{email|lower}", true),
            ("*", "{id}", true),
            ("u*", "user:{id}", true),
            ("*:*", "user:{id}", true),
            ("user:*:profile", "user:{id}:profile", true),
            ("user:*:*", "user:{id}:{name}", true),
            ("user:*", "user:{id}{name}", true),
            ("*er:*e", "user:{id}:profile", true),
            ("[tu]ser:*", "user:{id}", true),
            ("[^a-t]ser:*", "user:{id}", true),
            ("?ser:*", "user:{id}", true),
            ("user?*", "user:{id}", true),
            ("public.*", "{schema}.{table}:{id}", true),
            ("user:?", "user:x", true),
            (r"user:\{*\}", "user:{{{id}}}", true),
            ("user:{*}", "user:{{{id}}}", true),
            // A placeholder's text may be empty and may contain anything.
            ("user:?*", "user:{id}", false),
            ("user:[0-9]*", "user:{id}", false),
            ("user:[^x]*", "user:{id}", false),
            ("user:[0-9][0-9]", "user:{id}", false),
            ("sess:*", "{id}", false),
            ("users:*", "user:{id}", false),
            ("user:*", "{schema}:{id}", false),
            ("user:*", "USER:{id}", false),
            ("user:*:*", "user:{id}", false),
            ("user:*", "user", false),
            ("user:", "user:{id}", false),
            (r"user:\*", "user:{id}", false),
            ("user:*x", "user:{id}", false),
            ("*a*b*", "x:{id}", false),
            ("", "user:{id}", false),
        ] {
            assert_eq!(covered(&[glob], template), expected, "{glob} {template}");
        }
    }

    #[test]
    fn globs_may_cover_a_template_together() {
        assert!(covered(&["user:[^0-9]*", "user:[0-9]*", "user:"], "user:{id}"));
        assert!(!covered(&["user:[^0-9]*", "user:[0-9]*"], "user:{id}"));
        assert!(!covered(&["a:*", "b:*"], "c:{id}"));
        assert!(!covered(&[], "c:{id}"));
    }

    /// A glob that is said to cover matches each of these keys, and one that misses a key is never said to cover.
    #[test]
    fn no_key_is_outside_a_glob_that_covers() {
        let texts = ["", "a", "b", ":", "a:", "ab", "ba:a", "*", "aab"];
        let parts = ["a", "*", "?", "[ab]", "[^a]", ":", "b*"];
        let globs = parts.iter().flat_map(|x| parts.iter().flat_map(move |y| parts.map(|z| format!("{x}{y}{z}"))));
        let mut both = [0, 0];
        for glob in globs.flat_map(|glob| [format!("a:{glob}"), glob]) {
            let shape = Shape::of_glob(&glob);
            for template in ["a:{x}", "{x}a", "a{x}:{y}", "{x}:b{y}a"] {
                let misses = texts.iter().flat_map(|x| texts.map(|y| template.replace("{x}", x).replace("{y}", y)));
                let misses = misses.into_iter().find(|key| !shape.meets(&Shape::of_key(key.as_bytes())));
                let covers = covered(&[&glob], template);
                assert!(!covers || misses.is_none(), "{glob} covers {template}, but misses {misses:?}");
                both[usize::from(covers)] += 1;
            }
        }
        assert!(both.iter().all(|count| *count > 20), "{both:?}");
    }

    #[test]
    fn a_glob_that_takes_too_long_counts_as_one_that_misses() {
        let began = std::time::Instant::now();
        assert!(!covered(&[&format!("*a{}*", "?".repeat(60))], "a:{id}:{id}"));
        assert!(covered(&[&format!("{}*", "a*".repeat(60))], &format!("{}{{id}}", "a".repeat(500))));
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
