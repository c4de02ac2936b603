//! Places on the map: near ones on one partition.
//!
//! Use it when records are about places (drivers, deliveries, sensors), and what is near must meet: matching, nearby searches, fences.
//! By city one partition has all of a metropolis; by geohash of six characters a cell is 1.2 km by 0.6 km, and a city is thousands of
//! them. Five characters are 4.9 km squares, four 39 km by 20 km.
//!
//! It costs order of what moves: a driver who crosses a border of cells changes the partition. Two places on either side of a border
//! are near and not together, so a search looks at the neighbours as well. And cells are as uneven as the world is: the densest one is
//! the load of one partition, whatever the number of partitions. A longer geohash makes it smaller.

use std::fmt;
use std::sync::Arc;

use super::murmur2::{by_key, murmur2_partition};
use super::{Choice, ClusterView, Partitioner, Unplaced};

/// The partition that Java's default partitioner gives to the [`geohash`] of the record's place; the record keeps its own key.
///
/// Records without a place go where [`Murmur2`](super::Murmur2) has them.
///
/// ```
/// use milena_producer::ByGeohash;
///
/// // A value that begins with latitude and longitude.
/// let near = ByGeohash::new(6, |record| {
///     let (latitude, rest) = record.value?.split_first_chunk()?;
///     Some((f64::from_be_bytes(*latitude), f64::from_be_bytes(*rest.first_chunk()?)))
/// });
/// # let _ = near;
/// ```
#[derive(Clone)]
pub struct ByGeohash {
    precision: u8,
    place: PlaceOf,
}

type PlaceOf = Arc<dyn Fn(&Unplaced<'_>) -> Option<(f64, f64)> + Send + Sync>;

impl ByGeohash {
    /// Cells by geohashes of `precision` characters, 1 to 12. `place` says where a record is: latitude and longitude in degrees. It is
    /// asked about each record, and must not block.
    pub fn new(precision: u8, place: impl Fn(&Unplaced<'_>) -> Option<(f64, f64)> + Send + Sync + 'static) -> Self {
        Self { precision, place: Arc::new(place) }
    }
}

impl Partitioner for ByGeohash {
    fn choose(&self, record: &Unplaced<'_>, cluster: &dyn ClusterView) -> Choice<'_> {
        let place = (self.place)(record);
        match place.and_then(|(latitude, longitude)| geohash(latitude, longitude, self.precision)) {
            Some(cell) => Choice::Partition(murmur2_partition(cell.as_str().as_bytes(), cluster.partitions())),
            None => by_key(record, cluster),
        }
    }
}

impl fmt::Debug for ByGeohash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByGeohash").field("precision", &self.precision).finish_non_exhaustive()
    }
}

/// The name of a cell of the map: 1 to 12 characters, each of which cuts the cell before it into 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Geohash {
    characters: [u8; LONGEST],
    length: u8,
}

/// The cell of a place, with so many characters (held to 1 to 12); `None` for what is no place: latitudes beyond ±90°, longitudes
/// beyond ±180°, and what is not a number.
///
/// ```
/// # use milena_producer::geohash;
/// let cell = geohash(57.64911, 10.40744, 6).map(|cell| cell.to_string());
/// assert_eq!(cell.as_deref(), Some("u4pruy"));
/// ```
pub fn geohash(latitude: f64, longitude: f64, precision: u8) -> Option<Geohash> {
    if !(-90.0..=90.0).contains(&latitude) || !(-180.0..=180.0).contains(&longitude) {
        return None;
    }
    let length = precision.clamp(1, LONGEST as u8);
    let mut characters = [0; LONGEST];
    // Longitude and latitude in turn: which half of what is left it is in, five times for a character.
    let mut halves = [(longitude, -180.0, 180.0), (latitude, -90.0, 90.0)];
    for character in &mut characters[..usize::from(length)] {
        let mut index = 0;
        for _ in 0..5 {
            let (place, low, high) = &mut halves[0];
            let middle = f64::midpoint(*low, *high);
            let is_upper = *place >= middle;
            *(if is_upper { low } else { high }) = middle;
            index = index * 2 + usize::from(is_upper);
            halves.swap(0, 1);
        }
        *character = ALPHABET[index];
    }
    Some(Geohash { characters, length })
}

impl Geohash {
    /// Its characters: digits and small letters without a, i, l and o.
    pub fn as_str(&self) -> &str {
        // Only characters of the alphabet, which is ASCII, are ever put in.
        std::str::from_utf8(&self.characters[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl fmt::Display for Geohash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Geohash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const LONGEST: usize = 12;
const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

#[cfg(test)]
mod tests {
    use super::super::{View, keyed};
    use super::*;

    fn cell(latitude: f64, longitude: f64, precision: u8) -> String {
        geohash(latitude, longitude, precision).unwrap().to_string()
    }

    #[test]
    fn cells_have_the_names_that_others_give_them() {
        // Wikipedia, Rosetta Code and the documentation of other implementations.
        assert_eq!(cell(57.64911, 10.40744, 11), "u4pruydqqvj");
        assert_eq!(cell(42.6, -5.6, 5), "ezs42");
        assert_eq!(cell(51.433_718, -0.214_126, 9), "gcpue5hp4");
        assert_eq!(cell(47.599_240_004_249_054, -122.333_375_215_530_4, 12), "c23nb1pt9v2n");
        assert_eq!(cell(0.0, 0.0, 5), "s0000");
        assert_eq!((cell(-90.0, -180.0, 3), cell(90.0, 180.0, 3)), ("000".into(), "zzz".into()));
    }

    #[test]
    fn a_longer_name_begins_with_the_shorter_one() {
        let longest = cell(52.520_008, 13.404_954, 12);
        for precision in 1..=12 {
            assert_eq!(cell(52.520_008, 13.404_954, precision), longest[..usize::from(precision)]);
        }
        assert_eq!(cell(52.520_008, 13.404_954, 0), longest[..1]);
        assert_eq!(cell(52.520_008, 13.404_954, 255), longest);
    }

    #[test]
    fn what_is_no_place_has_no_cell() {
        for (latitude, longitude) in [
            (f64::NAN, 0.0),
            (0.0, f64::NAN),
            (90.1, 0.0),
            (0.0, -180.1),
            (f64::INFINITY, 0.0),
            (0.0, f64::NEG_INFINITY),
        ] {
            assert_eq!(geohash(latitude, longitude, 6), None);
        }
    }

    fn chosen(place: Option<(f64, f64)>, key: &str) -> i32 {
        let by = ByGeohash::new(6, move |_| place);
        match by.choose(&keyed(Some(key.as_bytes())), &View::of(24)) {
            Choice::Partition(partition) => partition,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn near_places_are_together_whatever_the_key() {
        let square = chosen(Some((52.5219, 13.4132)), "driver-1");
        assert_eq!(square, chosen(Some((52.5217, 13.4130)), "driver-2"));
        assert_eq!(square, murmur2_partition(cell(52.5219, 13.4132, 6).as_bytes(), 24));
    }

    #[test]
    fn a_city_is_spread_over_all_partitions() {
        // By city one partition would have them all.
        let mut counts = [0; 24];
        for x in 0..100 {
            for y in 0..100 {
                let place = (52.4 + f64::from(x) * 0.002, 13.2 + f64::from(y) * 0.004);
                counts[chosen(Some(place), "berlin") as usize] += 1;
            }
        }
        let most = counts.into_iter().max().unwrap();
        assert!(most < 2 * 10_000 / 24, "{counts:?}");
    }

    #[test]
    fn without_a_place_it_is_as_ever() {
        assert_eq!(chosen(None, "driver-1"), murmur2_partition(b"driver-1", 24));
        assert_eq!(chosen(Some((f64::NAN, 0.0)), "driver-1"), murmur2_partition(b"driver-1", 24));
        assert_eq!(ByGeohash::new(6, |_| None).choose(&keyed(None), &View::of(24)), Choice::Sticky);
    }
}
