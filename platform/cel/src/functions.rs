//! Which functions there are, and for which types: names and overloads of `google/cel-go/common/stdlib`, its extensions
//! (`ext/{strings,lists,sets}.go`, optional types, two-variable comprehensions) and
//! `staging/src/k8s.io/apiserver/pkg/cel/library`, in the versions of `pkg/cel/environment/base.go`.

use std::{collections::HashMap, sync::LazyLock};

use crate::types::Ty;

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    pub(crate) id: String,
    /// Called as `first.name(others)`.
    pub(crate) member: bool,
    /// With the receiver first.
    pub(crate) args: Vec<Ty>,
    pub(crate) result: Ty,
    /// How many type parameters there are: `Ty::Param(0)` and up.
    pub(crate) params: u32,
}

/// `id name(types)type`, with `.` before the name of what is called on its first argument. `A`, `B` are any types.
const TABLE: &str = "
conditional _?_:_(bool,A,A)A
logical_and _&&_(bool,bool)bool
logical_or _||_(bool,bool)bool
logical_not !_(bool)bool
not_strictly_false @not_strictly_false(bool)bool
equals _==_(A,A)bool
not_equals _!=_(A,A)bool
add_bytes _+_(bytes,bytes)bytes
add_double _+_(double,double)double
add_duration_duration _+_(duration,duration)duration
add_duration_timestamp _+_(duration,timestamp)timestamp
add_timestamp_duration _+_(timestamp,duration)timestamp
add_int64 _+_(int,int)int
add_list _+_(list<A>,list<A>)list<A>
add_string _+_(string,string)string
add_uint64 _+_(uint,uint)uint
subtract_double _-_(double,double)double
subtract_duration_duration _-_(duration,duration)duration
subtract_int64 _-_(int,int)int
subtract_timestamp_duration _-_(timestamp,duration)timestamp
subtract_timestamp_timestamp _-_(timestamp,timestamp)duration
subtract_uint64 _-_(uint,uint)uint
multiply_double _*_(double,double)double
multiply_int64 _*_(int,int)int
multiply_uint64 _*_(uint,uint)uint
divide_double _/_(double,double)double
divide_int64 _/_(int,int)int
divide_uint64 _/_(uint,uint)uint
modulo_int64 _%_(int,int)int
modulo_uint64 _%_(uint,uint)uint
negate_double -_(double)double
negate_int64 -_(int)int
index_list _[_](list<A>,int)A
index_map _[_](map<A,B>,A)B
optional_list_index_value _[_](optional<list<A>>,int)optional<A>
optional_map_index_value _[_](optional<map<A,B>>,A)optional<B>
list_optindex_optional_int _[?_](list<A>,int)optional<A>
optional_list_optindex_optional_int _[?_](optional<list<A>>,int)optional<A>
map_optindex_optional_value _[?_](map<A,B>,A)optional<B>
optional_map_optindex_optional_value _[?_](optional<map<A,B>>,A)optional<B>
in_list @in(A,list<A>)bool
in_map @in(A,map<A,B>)bool
size_bytes size(bytes)int
bytes_size .size(bytes)int
size_list size(list<A>)int
list_size .size(list<A>)int
size_map size(map<A,B>)int
map_size .size(map<A,B>)int
size_string size(string)int
string_size .size(string)int
contains_string .contains(string,string)bool
ends_with_string .endsWith(string,string)bool
starts_with_string .startsWith(string,string)bool
matches matches(string,string)bool
matches_string .matches(string,string)bool
type type(A)type<A>
to_dyn dyn(A)dyn
bool_to_bool bool(bool)bool
string_to_bool bool(string)bool
bytes_to_bytes bytes(bytes)bytes
string_to_bytes bytes(string)bytes
double_to_double double(double)double
int64_to_double double(int)double
string_to_double double(string)double
uint64_to_double double(uint)double
duration_to_duration duration(duration)duration
int64_to_duration duration(int)duration
string_to_duration duration(string)duration
int64_to_int64 int(int)int
double_to_int64 int(double)int
duration_to_int64 int(duration)int
string_to_int64 int(string)int
timestamp_to_int64 int(timestamp)int
uint64_to_int64 int(uint)int
string_to_string string(string)string
bool_to_string string(bool)string
bytes_to_string string(bytes)string
double_to_string string(double)string
duration_to_string string(duration)string
int64_to_string string(int)string
timestamp_to_string string(timestamp)string
uint64_to_string string(uint)string
ip_to_string string(net.IP)string
cidr_to_string string(net.CIDR)string
timestamp_to_timestamp timestamp(timestamp)timestamp
int64_to_timestamp timestamp(int)timestamp
string_to_timestamp timestamp(string)timestamp
uint64_to_uint64 uint(uint)uint
double_to_uint64 uint(double)uint
int64_to_uint64 uint(int)uint
string_to_uint64 uint(string)uint
duration_to_hours .getHours(duration)int
duration_to_minutes .getMinutes(duration)int
duration_to_seconds .getSeconds(duration)int
duration_to_milliseconds .getMilliseconds(duration)int
optional_of optional.of(A)optional<A>
optional_ofNonZeroValue optional.ofNonZeroValue(A)optional<A>
optional_none optional.none()optional<A>
optional_value .value(optional<A>)A
optional_hasValue .hasValue(optional<A>)bool
optional_or_optional .or(optional<A>,optional<A>)optional<A>
optional_orValue_value .orValue(optional<A>,A)A
optional_unwrap optional.unwrap(list<optional<A>>)list<A>
optional_unwrapOpt .unwrapOpt(list<optional<A>>)list<A>
list_first .first(list<A>)optional<A>
list_last .last(list<A>)optional<A>
map_insert_key_value cel.@mapInsert(map<A,B>,A,B)map<A,B>
map_insert_map cel.@mapInsert(map<A,B>,map<A,B>)map<A,B>
string_char_at_int .charAt(string,int)string
string_index_of_string .indexOf(string,string)int
string_index_of_string_int .indexOf(string,string,int)int
list_a_index_of_int .indexOf(list<A>,A)int
string_last_index_of_string .lastIndexOf(string,string)int
string_last_index_of_string_int .lastIndexOf(string,string,int)int
list_a_last_index_of_int .lastIndexOf(list<A>,A)int
string_lower_ascii .lowerAscii(string)string
string_upper_ascii .upperAscii(string)string
string_replace_string_string .replace(string,string,string)string
string_replace_string_string_int .replace(string,string,string,int)string
string_split_string .split(string,string)list<string>
string_split_string_int .split(string,string,int)list<string>
string_substring_int .substring(string,int)string
string_substring_int_int .substring(string,int,int)string
string_trim .trim(string)string
list_join .join(list<string>)string
list_join_string .join(list<string>,string)string
string_format .format(string,list<dyn>)string
strings_quote strings.quote(string)string
list_slice .slice(list<A>,int,int)list<A>
list_flatten .flatten(list<list<A>>)list<A>
list_flatten_int .flatten(list<dyn>,int)list<dyn>
lists_range lists.range(int)list<int>
list_reverse .reverse(list<A>)list<A>
list_distinct .distinct(list<A>)list<A>
list_includes_dyn_dyn .includes(dyn,dyn)bool
list_sets_contains_list sets.contains(list<A>,list<A>)bool
list_sets_equivalent_list sets.equivalent(list<A>,list<A>)bool
list_sets_intersects_list sets.intersects(list<A>,list<A>)bool
string_find_string .find(string,string)string
string_find_all_string .findAll(string,string)list<string>
string_find_all_string_int .findAll(string,string,int)list<string>
string_to_url url(string)kubernetes.URL
is_url_string isURL(string)bool
url_get_scheme .getScheme(kubernetes.URL)string
url_get_host .getHost(kubernetes.URL)string
url_get_hostname .getHostname(kubernetes.URL)string
url_get_port .getPort(kubernetes.URL)string
url_get_escaped_path .getEscapedPath(kubernetes.URL)string
url_get_query .getQuery(kubernetes.URL)map<string,list<string>>
string_to_ip ip(string)net.IP
is_ip isIP(string)bool
ip_is_canonical ip.isCanonical(string)bool
ip_family .family(net.IP)int
ip_is_unspecified .isUnspecified(net.IP)bool
ip_is_loopback .isLoopback(net.IP)bool
ip_is_link_local_multicast .isLinkLocalMulticast(net.IP)bool
ip_is_link_local_unicast .isLinkLocalUnicast(net.IP)bool
ip_is_global_unicast .isGlobalUnicast(net.IP)bool
string_to_cidr cidr(string)net.CIDR
is_cidr isCIDR(string)bool
cidr_contains_ip_string .containsIP(net.CIDR,string)bool
cidr_contains_ip_ip .containsIP(net.CIDR,net.IP)bool
cidr_contains_cidr_string .containsCIDR(net.CIDR,string)bool
cidr_contains_cidr .containsCIDR(net.CIDR,net.CIDR)bool
cidr_ip .ip(net.CIDR)net.IP
cidr_prefix_length .prefixLength(net.CIDR)int
cidr_masked .masked(net.CIDR)net.CIDR
string_to_quantity quantity(string)kubernetes.Quantity
is_quantity_string isQuantity(string)bool
quantity_sign .sign(kubernetes.Quantity)int
quantity_sign sign(kubernetes.Quantity)int
quantity_is_greater_than .isGreaterThan(kubernetes.Quantity,kubernetes.Quantity)bool
quantity_is_less_than .isLessThan(kubernetes.Quantity,kubernetes.Quantity)bool
quantity_compare_to .compareTo(kubernetes.Quantity,kubernetes.Quantity)int
quantity_get_float .asApproximateFloat(kubernetes.Quantity)double
quantity_get_int .asInteger(kubernetes.Quantity)int
quantity_is_integer .isInteger(kubernetes.Quantity)bool
quantity_add .add(kubernetes.Quantity,kubernetes.Quantity)kubernetes.Quantity
quantity_add_int .add(kubernetes.Quantity,int)kubernetes.Quantity
quantity_sub .sub(kubernetes.Quantity,kubernetes.Quantity)kubernetes.Quantity
quantity_sub_int .sub(kubernetes.Quantity,int)kubernetes.Quantity
string_to_semver semver(string)kubernetes.Semver
string_bool_to_semver semver(string,bool)kubernetes.Semver
is_semver_string isSemver(string)bool
is_semver_string_bool isSemver(string,bool)bool
semver_is_greater_than .isGreaterThan(kubernetes.Semver,kubernetes.Semver)bool
semver_is_less_than .isLessThan(kubernetes.Semver,kubernetes.Semver)bool
semver_compare_to .compareTo(kubernetes.Semver,kubernetes.Semver)int
semver_major .major(kubernetes.Semver)int
semver_minor .minor(kubernetes.Semver)int
semver_patch .patch(kubernetes.Semver)int
format-named format.named(string)optional<kubernetes.NamedFormat>
format-validate .validate(kubernetes.NamedFormat,string)optional<list<string>>
string_jsonpatch_escapeKey_string jsonpatch.escapeKey(string)string
authorizer_path .path(kubernetes.authorization.Authorizer,string)kubernetes.authorization.PathCheck
authorizer_group .group(kubernetes.authorization.Authorizer,string)kubernetes.authorization.GroupCheck
authorizer_serviceaccount .serviceAccount(kubernetes.authorization.Authorizer,string,string)kubernetes.authorization.Authorizer
groupcheck_resource .resource(kubernetes.authorization.GroupCheck,string)kubernetes.authorization.ResourceCheck
resourcecheck_subresource .subresource(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.ResourceCheck
resourcecheck_namespace .namespace(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.ResourceCheck
resourcecheck_name .name(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.ResourceCheck
authorizer_fieldselector .fieldSelector(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.ResourceCheck
authorizer_labelselector .labelSelector(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.ResourceCheck
pathcheck_check .check(kubernetes.authorization.PathCheck,string)kubernetes.authorization.Decision
resourcecheck_check .check(kubernetes.authorization.ResourceCheck,string)kubernetes.authorization.Decision
decision_errored .errored(kubernetes.authorization.Decision)bool
decision_error .error(kubernetes.authorization.Decision)string
decision_allowed .allowed(kubernetes.authorization.Decision)bool
decision_reason .reason(kubernetes.authorization.Decision)string
";

/// Types with an order, and the names overloads have for them: first in order operators, then in lists.
const ORDERED: [(&str, &str); 8] = [
    ("bool", "bool"),
    ("int", "int64"),
    ("uint", "uint64"),
    ("double", "double"),
    ("string", "string"),
    ("bytes", "bytes"),
    ("timestamp", "timestamp"),
    ("duration", "duration"),
];

/// Getters of moments, all with or without a zone.
const GETTERS: [(&str, &str); 10] = [
    ("getFullYear", "year"),
    ("getMonth", "month"),
    ("getDayOfYear", "day_of_year"),
    ("getDate", "day_of_month_1_based"),
    ("getDayOfMonth", "day_of_month"),
    ("getDayOfWeek", "day_of_week"),
    ("getHours", "hours"),
    ("getMinutes", "minutes"),
    ("getSeconds", "seconds"),
    ("getMilliseconds", "milliseconds"),
];

/// Formats that have a function of their own.
pub(crate) const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// Opaque types; the first three cannot be `null`'s neighbours in a list.
pub(crate) const OPAQUE: [&str; 11] = [
    "net.IP",
    "net.CIDR",
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.PathCheck",
    "kubernetes.authorization.GroupCheck",
    "kubernetes.authorization.ResourceCheck",
    "kubernetes.authorization.Decision",
];

static FUNCTIONS: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<String, Vec<Overload>> = HashMap::new();
    let mut add = |line: &str| {
        if let Some((name, overload)) = parse(line) {
            functions.entry(name).or_default().push(overload);
        }
    };
    TABLE.lines().filter(|line| !line.is_empty()).for_each(&mut add);
    for (name, id) in [("_<_", "less"), ("_<=_", "less_equals"), ("_>_", "greater"), ("_>=_", "greater_equals")] {
        for (ty, suffix) in ORDERED {
            add(&format!("{id}_{suffix} {name}({ty},{ty})bool"));
        }
        for (a, a_id) in &ORDERED[1..4] {
            for (b, b_id) in ORDERED[1..4].iter().filter(|(b, _)| b != a) {
                add(&format!("{id}_{a_id}_{b_id} {name}({a},{b})bool"));
            }
        }
    }
    for (name, id) in GETTERS {
        add(&format!("timestamp_to_{id} .{name}(timestamp)int"));
        add(&format!("timestamp_to_{id}_with_tz .{name}(timestamp,string)int"));
    }
    for (ty, _) in ORDERED {
        add(&format!("list_{ty}_is_sorted_bool .isSorted(list<{ty}>)bool"));
        add(&format!("list_{ty}_max_{ty} .max(list<{ty}>){ty}"));
        add(&format!("list_{ty}_min_{ty} .min(list<{ty}>){ty}"));
        add(&format!("list_{ty}_sort .sort(list<{ty}>)list<{ty}>"));
        add(&format!("list_{ty}_sortByAssociatedKeys .@sortByAssociatedKeys(list<A>,list<{ty}>)list<A>"));
    }
    for ty in ["int", "uint", "double", "duration"] {
        add(&format!("list_{ty}_sum_{ty} .sum(list<{ty}>){ty}"));
    }
    for format in FORMATS {
        add(&format!("format.{format} format.{format}()kubernetes.NamedFormat"));
    }
    functions
});

/// The overloads of a function; none if there is no such function.
pub(crate) fn overloads(name: &str) -> Option<&'static [Overload]> {
    FUNCTIONS.get(name).map(Vec::as_slice)
}

/// The type that an identifier names, such as `int` or `google.protobuf.Duration`.
pub(crate) fn named_type(name: &str) -> Option<Ty> {
    Some(match name {
        "bool" => Ty::Bool,
        "int" => Ty::Int,
        "uint" => Ty::Uint,
        "double" => Ty::Double,
        "string" => Ty::String,
        "bytes" => Ty::Bytes,
        "null_type" => Ty::Null,
        "list" => Ty::list(Ty::Dyn),
        "map" => Ty::map(Ty::Dyn, Ty::Dyn),
        "type" => Ty::Type(Ty::Dyn.into()),
        "google.protobuf.Timestamp" => Ty::Timestamp,
        "google.protobuf.Duration" => Ty::Duration,
        "optional_type" => Ty::optional(Ty::Dyn),
        _ => Ty::Opaque(OPAQUE.iter().find(|opaque| **opaque == name)?),
    })
}

fn parse(line: &str) -> Option<(String, Overload)> {
    let (id, rest) = line.split_once(' ')?;
    let open = rest.find('(')?;
    let (name, rest) = rest.split_at(open);
    let (name, member) = name.strip_prefix('.').map_or((name, false), |name| (name, true));
    let mut rest = &rest[1..];
    let mut args = Vec::new();
    while !rest.starts_with(')') {
        let (ty, after) = parse_type(rest)?;
        args.push(ty);
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    let (result, _) = parse_type(&rest[1..])?;
    let has = |letter: char| line[id.len()..].contains([letter]) && letters(line, letter);
    let params = if has('B') { 2 } else { u32::from(has('A')) };
    Some((name.to_owned(), Overload { id: id.to_owned(), member, args, result, params }))
}

/// Whether a letter stands alone, as a parameter does.
fn letters(line: &str, letter: char) -> bool {
    let bytes = line.as_bytes();
    line.match_indices(letter).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        let after = bytes.get(at + 1);
        matches!(before, Some(b'<' | b',' | b'(' | b')')) && matches!(after, None | Some(b'>' | b',' | b')'))
    })
}

/// A type at the start of a text, and what comes after it.
fn parse_type(text: &str) -> Option<(Ty, &str)> {
    let end = text.find(['<', '>', ',', ')']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let ty = match word {
        "A" => Ty::Param(0),
        "B" => Ty::Param(1),
        "dyn" => Ty::Dyn,
        "timestamp" => Ty::Timestamp,
        "duration" => Ty::Duration,
        "list" | "optional" | "type" => {
            let (inner, rest) = parse_type(rest.strip_prefix('<')?)?;
            let ty = match word {
                "list" => Ty::list(inner),
                "optional" => Ty::optional(inner),
                _ => Ty::Type(inner.into()),
            };
            return Some((ty, rest.strip_prefix('>')?));
        }
        "map" => {
            let (key, rest) = parse_type(rest.strip_prefix('<')?)?;
            let (value, rest) = parse_type(rest.strip_prefix(',')?)?;
            return Some((Ty::map(key, value), rest.strip_prefix('>')?));
        }
        _ => named_type(word)?,
    };
    Some((ty, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read() {
        for line in TABLE.lines().filter(|line| !line.is_empty()) {
            assert!(parse(line).is_some(), "{line}");
        }
        let add = &overloads("_+_").expect("a function")[6];
        assert_eq!((add.id.as_str(), add.params, add.args.len()), ("add_list", 1, 2));
        assert_eq!(overloads("@in").expect("a function")[1].params, 2);
        assert_eq!(overloads("isURL").expect("a function")[0].params, 0);
        assert!(overloads("format.dns1123Label").is_some());
    }
}
