//! TarSums: docker's own values, and what can be wrong with an archive.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

use std::io::{self, Read, Write};

use sledge::Error;
use sledge::oci::{Algorithm, TarSum, TarSumAlgorithm, TarSumError, TarSumVersion};
use sledge::registry::Registry;
use sledge::store::UploadOptions;

/// Layer 46af0962 of the tests of docker's `pkg/tarsum` (Apache-2.0), packed: a folder, links and a file.
const LAYER: &[u8] = include_bytes!("46af0962.tar.gz");

use TarSumAlgorithm::{Md5, Sha1, Sha224, Sha256, Sha384, Sha512};
use TarSumVersion::{Dev, V0, V1};

const BLOCK: usize = 512;
const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// An entry's header before its checksum is set.
#[derive(Clone)]
struct Entry {
    header: tar::Header,
    body: Vec<u8>,
}

impl Entry {
    fn new(name: &str, body: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        let mut entry = Self { header, body: body.to_vec() };
        entry.field(124..136, format!("{:011o}\0", body.len()).as_bytes());
        entry.field(100..108, b"0000644\0");
        entry.field(156..157, b"0");
        entry
    }

    fn field(&mut self, at: std::ops::Range<usize>, value: &[u8]) -> &mut Self {
        self.header.as_mut_bytes()[at][..value.len()].copy_from_slice(value);
        self
    }

    fn kind(mut self, typeflag: u8) -> Self {
        self.field(156..157, &[typeflag]);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.set_cksum();
        let mut bytes = [header.as_bytes().as_slice(), &self.body].concat();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(Entry::bytes).collect();
    bytes.extend_from_slice(&END);
    bytes
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sum(version: TarSumVersion, algorithm: TarSumAlgorithm, layer: &[u8]) -> String {
    TarSum::of(version, algorithm, layer).unwrap().to_string()
}

fn error(layer: &[u8]) -> TarSumError {
    TarSum::of(V1, Sha256, layer).unwrap_err()
}

/// The entries of docker's collision archives: one path twice.
fn collision(text: &[u8; 6], mtime: &[u8; 11]) -> Entry {
    let mut entry = Entry::new("file", text);
    entry.header = tar::Header::new_gnu();
    entry
        .field(0..4, b"file")
        .field(100..108, b"0000644\0")
        .field(108..116, b"0001750\0")
        .field(116..124, b"0001750\0");
    entry.field(124..136, b"00000000006\0").field(136..147, mtime).field(156..157, b"0");
    entry.field(265..271, b"vbatts").field(297..303, b"vbatts");
    entry
}

/// The file of a MiB of zeros that docker's tests make, as Go writes it.
fn zeros() -> Vec<u8> {
    let mut entry = Entry::new("/testdata0", &vec![0; 1 << 20]).kind(0);
    entry.field(100..108, b"0000755\0");
    archive(&[entry])
}

#[test]
fn docker_s_own_values_come_out() {
    let hex = |text: String| text.split_once(':').unwrap().1.to_owned();
    assert_eq!(
        hex(sum(V0, Sha256, LAYER)),
        "5e2c2a5b29c91f5ae3323f6cd74d1274c99de342669cb2e0c2b99f5e69c15598"
    );
    let v1 = sum(V1, Sha256, LAYER);
    assert_eq!(v1, "tarsum.v1+sha256:41cd5c911333ee394776e432fc5a27cc82dfea313e5feff965e31c0fddd9213d");
    assert_eq!(sum(Dev, Sha256, LAYER), v1.replace(".v1", ".dev"));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(LAYER).read_to_end(&mut unpacked).unwrap();
    assert_eq!(sum(V1, Sha256, &unpacked), v1);

    let mut folder = Entry::new("./", b"").kind(b'5');
    folder.field(100..108, b"0040755\0").field(136..147, b"12156431635");
    let folder = archive(&[folder]);
    assert_eq!(
        hex(sum(V0, Sha256, &folder)),
        "2a7812e636235448785062100bb9103096aa6655a8f6bb9ac9b13fe8290f66df"
    );

    let capability = b"57 SCHILY.xattr.security.capability=\x01\0\0\x02\xc0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\n";
    let xattr = |records: &[u8]| {
        let mut file = Entry::new("file", b"");
        file.field(100..108, b"0100644\0").field(136..147, b"12335444166");
        archive(&[Entry::new("PaxHeaders.12099/file", records).kind(b'x'), file])
    };
    assert_eq!(
        hex(sum(V1, Sha256, &xattr(capability))),
        "e77e6c36c4bc32c0795ca8a8c086bbaa6cb83b0d785522182d45d770cc5eeb6f"
    );
    assert_eq!(sum(V0, Sha256, &xattr(capability)), sum(V0, Sha256, &xattr(b"")));
    assert_ne!(sum(V1, Sha256, &xattr(capability)), sum(V1, Sha256, &xattr(b"")));

    let (old, new) = (collision(b"farts\n", b"12402144462"), collision(b"HOWDY\n", b"12402144551"));
    for (entries, expected) in [
        (vec![&old, &new], "08653904a68d3ab5c59e65ef58c49c1581caa3c34744f8d354b3f575ea04424a"),
        (vec![&new, &old], "b51c13fbefe158b5ce420d2b930eef54c5cd55c50a2ee4abdddea8fa9f081e0d"),
        (vec![&new], "381547080919bb82691e995508ae20ed33ce0f6948d41cafbeb70ce20c73ee8e"),
        (vec![&old], "f886e431c08143164a676805205979cd8fa535dfcef714db5515650eea5a7c0f"),
    ] {
        let entries: Vec<Entry> = entries.into_iter().cloned().collect();
        assert_eq!(hex(sum(V0, Sha256, &archive(&entries))), expected);
    }

    let zeros = zeros();
    for (algorithm, expected) in [
        (Md5, "0d7529ec7a8360155b48134b8e599f53"),
        (Sha1, "f1fee39c5925807ff75ef1925e7a23be444ba4df"),
        (Sha224, "6319390c0b061d639085d8748b14cd55f697cf9313805218b21cf61c"),
        (Sha256, "8bf12d7e67c51ee2e8306cba569398b1b9f419969521a12ffb9d8875e8836738"),
        (
            Sha384,
            "a578ce3ce29a2ae03b8ed7c26f47d0f75b4fc849557c62454be4b5ffd66ba021e713b48ce71e947b43aab57afd5a7636",
        ),
        (
            Sha512,
            "e9bfb90ca5a4dfc93c46ee061a5cf9837de6d2fdf82544d6460d3147290aecfabf7b5e415b9b6e72db9b8941f149d5d69fb17a394cbfaf2eac523bd9eae21855",
        ),
    ] {
        assert_eq!(sum(V0, algorithm, &zeros), format!("tarsum+{}:{expected}", algorithm.as_str()));
    }
}

#[test]
fn an_empty_tar_has_the_sum_of_nothing() {
    let nothing = "tarsum.v1+sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    for layer in [&[][..], &END, &packed(&END), &packed(b"")] {
        assert_eq!(sum(V1, Sha256, layer), nothing);
    }
}

#[test]
fn what_stands_behind_the_end_does_not_count_and_is_looked_at_all_the_same() {
    let whole = archive(&[Entry::new("a", b"content")]);
    let expected = sum(V1, Sha256, &whole);
    let more = [&whole[..], b"more"].concat();
    assert_eq!(sum(V1, Sha256, &more), expected);
    assert_eq!(sum(V1, Sha256, &packed(&more)), expected);
    // The fuzzer's: whether this was met hung on the pieces in which it came.
    let mut damaged = packed(&more);
    let crc = damaged.len() - 8;
    damaged[crc] ^= 1;
    assert!(matches!(error(&damaged), TarSumError::Read(_)));
    assert!(matches!(error(&damaged[..crc]), TarSumError::Read(_)));
}

#[test]
fn a_name_is_the_same_however_it_is_written_down() {
    let long = format!("{}/file", "folder/".repeat(20));
    let plain = |name: &str| Entry::new(name, b"content");
    // GNU's long names, PAX records, and a prefix.
    let gnu = archive(&[Entry::new("././@LongLink", format!("{long}\0").as_bytes()).kind(b'L'), plain("x")]);
    let record = format!("path={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let pax = archive(&[Entry::new("x", record.as_bytes()).kind(b'x'), plain("x")]);
    let (prefix, name) = long.split_at(112);
    let mut split = plain(name.trim_start_matches('/'));
    split.field(345..500, prefix.trim_end_matches('/').as_bytes());
    let split = archive(&[split]);
    assert_eq!(sum(V1, Sha256, &gnu), sum(V1, Sha256, &pax));
    assert_eq!(sum(V1, Sha256, &gnu), sum(V1, Sha256, &split));
    assert_ne!(sum(V1, Sha256, &gnu), sum(V1, Sha256, &archive(&[plain("x")])));

    let mut link = Entry::new("x", b"").kind(b'2');
    link.field(157..161, b"here");
    let long_link = archive(&[Entry::new("././@LongLink", long.as_bytes()).kind(b'K'), link.clone()]);
    let record = format!("linkpath={long}\n");
    let record = format!("{} {record}", record.len() + 4);
    let pax_link = archive(&[Entry::new("x", record.as_bytes()).kind(b'x'), link]);
    assert_eq!(sum(V1, Sha256, &long_link), sum(V1, Sha256, &pax_link));
}

#[test]
fn numbers_are_read_in_each_of_their_forms() {
    let with = |at: std::ops::Range<usize>, value: &[u8]| {
        let mut entry = Entry::new("x", b"");
        entry.field(at, value);
        sum(V1, Sha256, &archive(&[entry]))
    };
    let octal = with(108..116, b"0001750\0");
    for same in [&b" 1750 \0\0"[..], b"\0\x001750\0\0", b"001750 \0", b"\x80\0\0\0\0\0\x03\xe8"] {
        assert_eq!(with(108..116, same), octal, "{same:?}");
    }
    assert_eq!(with(108..116, &[0; 8]), with(108..116, b"0000000\0"));
    // Of devices alone the numbers count.
    let device = |kind: u8, number: &[u8]| {
        let mut entry = Entry::new("x", b"").kind(kind);
        entry.field(329..337, number);
        sum(V1, Sha256, &archive(&[entry]))
    };
    assert_eq!(device(b'0', b"0000001\0"), device(b'0', b"0000002\0"));
    assert_ne!(device(b'3', b"0000001\0"), device(b'3', b"0000002\0"));
    // Before POSIX there were neither numbers nor names.
    let old = |name: &[u8]| {
        let mut entry = Entry::new("x", b"");
        entry.field(257..265, &[0; 8]).field(265..297, name);
        sum(V1, Sha256, &archive(&[entry]))
    };
    assert_eq!(old(b"root"), old(b"user"));
}

#[test]
fn a_damaged_archive_says_where() {
    let whole = archive(&[Entry::new("a", b"content"), Entry::new("b", &[7; 2000])]);
    // Cut at any place: what is left is another archive, or none.
    let mut entire = 0;
    for cut in (0..whole.len() - END.len()).step_by(8) {
        match TarSum::of(V1, Sha256, &whole[..cut]) {
            // Between its entries nobody can tell.
            Ok(found) => {
                assert_ne!(found.to_string(), sum(V1, Sha256, &whole));
                entire += 1;
            }
            Err(TarSumError::Truncated { entry }) => assert_eq!(entry, usize::from(cut >= 2 * BLOCK)),
            Err(other) => unreachable!("{other}"),
        }
        assert!(matches!(error(&packed(&whole)[..20]), TarSumError::Read(_)));
    }
    assert_eq!(entire, 2);

    let reason = |entry: &Entry| error(&archive(&[Entry::new("first", b""), entry.clone()])).to_string();
    let field = |at: std::ops::Range<usize>, value: &[u8]| {
        let mut entry = Entry::new("x", b"");
        entry.field(at, value);
        reason(&entry)
    };
    for (found, expected) in [
        (field(100..108, b"0000z44\0"), "entry 1: a number of its header is none"),
        (field(100..108, b"+000644\0"), "entry 1: a number of its header is none"),
        (field(124..136, b"77777777777\0"), "it ends in the middle of entry 1"),
        (field(124..136, &[0xff; 12]), "it ends in the middle of entry 1"),
        (reason(&Entry::new("x", b"").kind(b'S')), "entry 1: it is a sparse file"),
        (reason(&Entry::new("x", b"22 GNU.sparse.major=1\n").kind(b'x')), "it ends in the middle of entry 1"),
        (reason(&Entry::new("x", b"").kind(b'L')), "it ends in the middle of entry 1"),
    ] {
        assert!(found.contains(expected), "{found}");
    }
    for records in [
        "x",
        "5 a=b",
        "6 a=b",
        "99 a=b\n",
        "-6 a=b\n",
        "0 a=b\n",
        "2 \n",
        "6 a=b\n6",
        "4 a\n",
        "8 uid=x\n",
        "10 size=-1\n",
        "24 GNU.sparse.major=1\n\n",
        "22 GNU.sparse.major=1\n",
    ] {
        let bytes = archive(&[Entry::new("x", records.as_bytes()).kind(b'x'), Entry::new("y", b"")]);
        assert!(matches!(error(&bytes), TarSumError::Entry { entry: 0, .. }), "{records:?}");
    }
    let mut bad = whole.clone();
    bad[0] ^= 1;
    assert!(error(&bad).to_string().contains("entry 0: its checksum does not fit"));
    assert!(error(&[7; 600]).to_string().contains("entry 0"));
    let mut between = Entry::new("a", b"").bytes();
    between.extend_from_slice(&[0; BLOCK]);
    between.extend_from_slice(&archive(&[Entry::new("b", b"")]));
    assert!(error(&between).to_string().contains("a block of zeros stands before it"));
}

/// Comes a byte at a time, as a reader may.
struct Dripping<'a>(&'a [u8]);

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// Whether it is packed was told by its first piece, of however few bytes that was.
#[test]
fn a_layer_may_come_in_pieces_of_any_size() {
    for layer in [LAYER, &packed(&END), &archive(&[Entry::new("a", b"content")]), b"", b"\x1f"] {
        let of = |layer: &mut dyn Read| TarSum::of(V1, Sha256, layer).map_err(|error| error.to_string());
        assert_eq!(of(&mut Dripping(layer)), of(&mut &layer[..]));
    }
}

/// So many bytes of an archive, without having them.
struct Long {
    head: io::Cursor<Vec<u8>>,
    left: u64,
}

impl Read for Long {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.head.read(buffer)?;
        if read > 0 {
            return Ok(read);
        }
        let count = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        buffer[..count].fill(0);
        self.left -= count as u64;
        Ok(count)
    }
}

#[test]
fn what_claims_to_be_large_takes_no_memory() {
    // An entry that is large is read piece by piece: here it is 40 GiB, and a mebibyte of it comes.
    let mut large = Entry::new("x", b"");
    large.field(124..136, b"\x80\0\0\0\0\0\0\x0a\0\0\0\0");
    let long = Long { head: io::Cursor::new(large.bytes()), left: 1 << 20 };
    assert!(matches!(TarSum::of(V1, Sha256, long), Err(TarSumError::Truncated { entry: 0 })));
    for kind in [b'L', b'K', b'x'] {
        let mut name = Entry::new("x", b"").kind(kind);
        name.field(124..136, b"00040000001\0");
        let long = Long { head: io::Cursor::new(name.bytes()), left: 16 << 20 };
        let error = TarSum::of(V1, Sha256, long).unwrap_err().to_string();
        assert!(error.contains("too long: at most a MiB"), "{error}");
    }
}

#[test]
fn more_entries_than_there_may_be_are_refused() {
    let entry = Entry::new("x", b"").bytes();
    let many = |count: usize| packed(&entry.repeat(count));
    assert!(matches!(error(&many((1 << 20) + 1)), TarSumError::TooLarge));
    // All of them have one path, and one sum, which sorting has to live with.
    sum(V1, Sha256, &many(20_000));
}

/// With a path that stands twice the comparison is no order, and what comes of it depends on the sorting. What is expected was made by
/// docker's own code, with Go's sorting of its time.
#[test]
fn an_order_that_is_none_is_sorted_as_docker_did() {
    let mut state = 7_u32;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as usize % below
    };
    let mut sums = String::new();
    for _ in 0..100 {
        let (count, names) = (random(300), 1 + random(60));
        let entries: Vec<Entry> = (0..count)
            .map(|n| Entry::new(&format!("f{}", random(names)), n.to_string().as_bytes()))
            .collect();
        sums += &(sum(V1, Sha256, &archive(&entries)) + "\n");
    }
    let expected = "sha256:39aca9be12676c770f52e6195cd79dbadcaa67e9b4f4a46077d393b2e3778790";
    assert_eq!(Algorithm::Sha256.digest(sums.as_bytes()).to_string(), expected);
}

#[test]
fn a_layer_is_found_by_its_tarsum_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let tar_sum = TarSum::of(V1, Sha512, LAYER).unwrap();
    let open = || Registry::open(folder.path()).unwrap().repository("a").unwrap().layers();
    {
        let layers = open();
        assert!(matches!(layers.find(&tar_sum), Err(Error::TarSumUnknown { .. })));
        let mut upload = layers.upload(&UploadOptions::new()).unwrap();
        upload.write_all(LAYER).unwrap();
        // The session may have come through a restart, too.
        let id = upload.id();
        upload.suspend().unwrap();
        drop(layers);
        let layers = open();
        let stat = layers.finish_as(layers.resume(id).unwrap(), &tar_sum).unwrap();
        assert_eq!(stat.digest, Algorithm::Sha256.digest(LAYER));
    }
    let layers = open();
    let found = layers.find(&tar_sum).unwrap();
    let mut bytes = Vec::new();
    layers.fetch(&found.digest).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, LAYER);
}
