//! Times at which clients come online after publication, as cumulative shares with linear interpolation. The share that
//! is left at the end never comes online, and a plan reports it.

use std::str::FromStr;
use std::time::Duration;

use gupd_config::units::Time;

/// Profile of the times at which clients come online.
#[derive(Clone, Debug, PartialEq)]
pub struct Appearance {
    /// Seconds and the share of clients online by then, both ascending.
    points: Vec<(f64, f64)>,
}

/// Error of parsing a profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a profile: use always-on, estate, or shares by time such as 24h:60%,3d:75%")]
pub struct ParseAppearanceError(String);

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

impl Appearance {
    /// Creates the profile of clients that are online from the start.
    pub fn always_on() -> Self {
        Self { points: vec![(0.0, 1.0)] }
    }

    /// Creates the profile of an estate of 5,000 endpoints: 60 % come online within a day, 75 % within three days, 80 %
    /// within a week.
    pub fn estate() -> Self {
        Self { points: vec![(DAY, 0.60), (3.0 * DAY, 0.75), (7.0 * DAY, 0.80)] }
    }

    /// Returns the time at which the client at this position, from 0 to 1, comes online; `None` if never.
    pub fn online_time(&self, position: f64) -> Option<f64> {
        let (mut since, mut share) = (0.0, 0.0);
        for &(until, by_then) in &self.points {
            if position < by_then {
                return Some(since + (until - since) * (position - share) / (by_then - share));
            }
            (since, share) = (until, by_then);
        }
        None
    }

    /// Returns the share online by a time.
    pub fn share_at(&self, time: f64) -> f64 {
        let (mut since, mut share) = (0.0, 0.0);
        for &(until, by_then) in &self.points {
            if time < until {
                return share + (by_then - share) * (time - since) / (until - since);
            }
            (since, share) = (until, by_then);
        }
        share
    }
}

impl FromStr for Appearance {
    type Err = ParseAppearanceError;

    fn from_str(text: &str) -> Result<Self, ParseAppearanceError> {
        match text {
            "always-on" => return Ok(Self::always_on()),
            "estate" => return Ok(Self::estate()),
            _ => {}
        }
        let point = |part: &str| {
            let (time, share) = part.trim().split_once(':')?;
            let Time(time) = time.parse().ok()?;
            Some((Duration::as_secs_f64(&time), parse_share(share)?))
        };
        let points: Option<Vec<_>> = text.split(',').map(point).collect();
        let ascends = |points: &Vec<(f64, f64)>| {
            points.first().is_some_and(|first| first.1 > 0.0)
                && points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1)
        };
        points
            .filter(ascends)
            .map(|points| Self { points })
            .ok_or_else(|| ParseAppearanceError(text.to_owned()))
    }
}

/// Parses a share written like `60%` or `2.5%`; from 0 to 1.
pub fn parse_share(text: &str) -> Option<f64> {
    let percent: f64 = text.trim().strip_suffix('%')?.trim_end().parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estate_profile_matches_its_documented_shares() {
        let estate = Appearance::estate();
        let by = |time: f64| {
            (0..5_000)
                .filter(|i| estate.online_time((f64::from(*i) + 0.5) / 5_000.0).is_some_and(|t| t <= time))
                .count()
        };
        assert_eq!([by(DAY), by(3.0 * DAY), by(7.0 * DAY), by(1e9)], [3_000, 3_750, 4_000, 4_000]);
        assert_eq!(
            [DAY / 2.0, DAY, 2.0 * DAY, 1e9].map(|t| (estate.share_at(t) * 1e6).round()),
            [3e5, 6e5, 6.75e5, 8e5]
        );
        assert_eq!(
            (Appearance::always_on().online_time(0.999), Appearance::always_on().share_at(0.0)),
            (Some(0.0), 1.0)
        );
    }

    #[test]
    fn profile_parses_by_name_or_shares_by_time() {
        assert_eq!("24h:60%, 3d:75%,7d:80%".parse(), Ok(Appearance::estate()));
        assert_eq!("estate".parse(), Ok(Appearance::estate()));
        assert_eq!("0s:100%".parse(), Ok(Appearance::always_on()));
        for text in
            ["", "some", "24h", "24h:60", "24h:160%", "24h:0%", "3d:60%,24h:75%", "1d:60%,2d:60%", "1d:NaN%"]
        {
            assert!(text.parse::<Appearance>().is_err(), "{text:?}");
        }
    }
}
