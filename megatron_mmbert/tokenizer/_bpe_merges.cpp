// The BPE of a tokenizer.json whose merges are pairs of pieces in an order (Gemma's): the ids of the `tokenizers` library,
// several times faster. Optional, as _bpe.cpp.
//
// Neighbouring symbols are merged by the first pair in the file's order, the leftmost first among equals. Two characters
// that no merge ever brings together bound a segment of the text, whose ids do not depend on what is around it: it is
// encoded once and then remembered. Added tokens are cut out before, the longest at each place from the left.

#include "_bpe_table.h"

#include <queue>
#include <unordered_map>

namespace {

constexpr const char* kCapsule = "megatron_mmbert.tokenizer._bpe_merges.Encoder";
constexpr uint32_t kSpace = ' ', kMark = 0x2581;  // U+2581 is a space in the vocabulary

uint32_t character_at(const char* bytes, size_t size) {  // of valid UTF-8
    const auto byte = [&](size_t at) { return static_cast<uint32_t>(static_cast<unsigned char>(bytes[at])); };
    if (size == 1) return byte(0);
    uint32_t character = byte(0) & (0x7f >> size);
    for (size_t at = 1; at < size; ++at) character = character << 6 | (byte(at) & 0x3f);
    return character;
}

uint64_t mixed(uint64_t value) {
    value = (value ^ (value >> 31)) * 0x9e3779b97f4a7c15ULL;
    return value ^ (value >> 32);
}

struct Merge {
    uint64_t pair = UINT64_MAX;
    uint32_t rank = 0, id = 0;
};

// Pairs of ids to their merge: open addressing.
class Merges {
  public:
    void reserve(size_t count) {
        size_t size = 16;
        while (size < 2 * count) size *= 2;
        entries_.assign(size, {});
    }
    void insert(uint32_t left, uint32_t right, uint32_t rank, uint32_t id) {  // of the same pair twice the last counts
        Merge& entry = entries_[place(key(left, right))];
        entry = {key(left, right), rank, id};
    }
    const Merge* find(uint32_t left, uint32_t right) const {
        const Merge& entry = entries_[place(key(left, right))];
        return entry.pair == UINT64_MAX ? nullptr : &entry;
    }

  private:
    static uint64_t key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }
    size_t place(uint64_t pair) const {
        size_t at = mixed(pair) & (entries_.size() - 1);
        while (entries_[at].pair != UINT64_MAX && entries_[at].pair != pair) at = (at + 1) & (entries_.size() - 1);
        return at;
    }
    std::vector<Merge> entries_;
};

// The added tokens, a byte of them at each step of a walk.
class AddedTokens {
  public:
    static constexpr int32_t kNone = -1, kText = -2;  // kText: a special token, which in a text is text

    void add(const char* bytes, size_t size, int32_t id) {
        uint32_t node = 0;
        for (size_t at = 0; at < size; ++at) {
            const auto [found, is_new] = steps_.try_emplace(step(node, bytes[at]), static_cast<uint32_t>(ids_.size()));
            if (is_new) ids_.push_back(kNone);
            node = found->second;
        }
        ids_[node] = id;
        begins_[static_cast<unsigned char>(bytes[0])] = true;
    }

    size_t longest(const char* bytes, size_t size, int32_t& id) const {  // 0 if none begins here
        if (!begins_[static_cast<unsigned char>(bytes[0])]) return 0;
        size_t length = 0;
        uint32_t node = 0;
        for (size_t at = 0; at < size; ++at) {
            const auto found = steps_.find(step(node, bytes[at]));
            if (found == steps_.end()) break;
            node = found->second;
            if (ids_[node] != kNone) id = ids_[node], length = at + 1;
        }
        return length;
    }

  private:
    static uint64_t step(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<unsigned char>(byte); }
    std::unordered_map<uint64_t, uint32_t> steps_;
    std::vector<int32_t> ids_{kNone};
    bool begins_[256] = {};
};

struct Symbol {
    int32_t id, before, after;  // id: -1 once merged into the one before
};

struct Candidate {
    uint32_t rank, id;
    int32_t left;
    bool operator<(const Candidate& other) const {
        return rank > other.rank || (rank == other.rank && left > other.left);
    }
};

class Encoder {
  public:
    Merges merges;
    AddedTokens added;
    int32_t byte_ids[256];
    uint32_t mark_becomes = kMark;  // what a U+2581 of the text becomes

    Encoder() : ids_of_(0x110000, -1), may_meet_(kFilterBits / 64) {}

    void add_character(uint32_t character, int32_t id) { ids_of_[character] = id; }

    void add_meeting(uint32_t one, uint32_t other) {
        const uint64_t bit = filter_bit(one, other);
        may_meet_[bit / 64] |= uint64_t{1} << (bit % 64);
    }

    void encode(const char* text, size_t size, std::vector<int32_t>& out) {
        size_t start = 0;
        for (size_t at = 0; at < size;) {
            int32_t id = 0;
            const size_t length = added.longest(text + at, size - at, id);
            if (length && id != AddedTokens::kText) {
                between(text, start, at, size, out);
                out.push_back(id);
                start = at + length;
            }
            at += length ? length : 1;
        }
        between(text, start, size, size, out);
    }

  private:
    static constexpr size_t kFilterBits = size_t{1} << 22;

    static uint64_t filter_bit(uint32_t one, uint32_t other) {
        return mixed(uint64_t{one} << 32 | other) % kFilterBits;
    }

    uint32_t normal(uint32_t character) const {
        return character == kSpace ? kMark : character == kMark ? mark_becomes : character;
    }

    // The ids of the text from `start` to `end`, segment by segment; `size`: of the whole text.
    void between(const char* text, size_t start, size_t end, size_t size, std::vector<int32_t>& out) {
        uint32_t previous = 0;
        size_t begun = start;
        for (size_t at = start; at < end;) {
            const size_t length = character_size(static_cast<unsigned char>(text[at]));
            const uint32_t character = normal(character_at(text + at, length));
            if (at > begun) {
                const uint64_t bit = filter_bit(previous, character);
                if (!(may_meet_[bit / 64] >> (bit % 64) & 1)) {
                    segment(text + begun, at - begun, at + kPadding <= size, out);
                    begun = at;
                }
            }
            previous = character;
            at += length;
        }
        if (begun < end) segment(text + begun, end - begun, end + kPadding <= size, out);
    }

    void segment(const char* bytes, size_t size, bool padded, std::vector<int32_t>& out) {
        if (size > kMaxWordBytes) return merge(bytes, size, out);
        const uint64_t hash = hash_of(bytes, size, padded);
        if (const Table::Entry* known = words_.find(bytes, size, hash, padded)) {
            out.insert(out.end(), ids_.begin() + known->value, ids_.begin() + known->value + known->value_size);
            return;
        }
        const size_t before = out.size();
        merge(bytes, size, out);
        if (words_.count() >= kMaxWords) words_.clear(), ids_.clear();
        words_.insert(bytes, size, hash, static_cast<uint32_t>(ids_.size()), out.size() - before);
        ids_.insert(ids_.end(), out.begin() + before, out.end());
    }

    void offer(int32_t left) {
        if (left < 0 || symbols_[left].after < 0) return;
        const Merge* found = merges.find(symbols_[left].id, symbols_[symbols_[left].after].id);
        if (found) agenda_.push({found->rank, found->id, left});
    }

    void merge(const char* bytes, size_t size, std::vector<int32_t>& out) {
        symbols_.clear();
        const auto add = [this](int32_t id) {
            const int32_t number = static_cast<int32_t>(symbols_.size());
            symbols_.push_back({id, number - 1, number + 1});
        };
        for (size_t at = 0; at < size;) {
            const size_t length = character_size(static_cast<unsigned char>(bytes[at]));
            const uint32_t character = normal(character_at(bytes + at, length));
            if (ids_of_[character] >= 0) {
                add(ids_of_[character]);
            } else {
                for (const char byte : in_bytes(character)) add(byte_ids[static_cast<unsigned char>(byte)]);
            }
            at += length;
        }
        symbols_.back().after = -1;
        for (size_t left = 0; left + 1 < symbols_.size(); ++left) offer(static_cast<int32_t>(left));
        while (!agenda_.empty()) {
            const Candidate top = agenda_.top();
            agenda_.pop();
            Symbol& left = symbols_[top.left];
            if (left.id < 0 || left.after < 0) continue;
            Symbol& right = symbols_[left.after];
            // Merged otherwise since; if another pair now gives the same piece the library merges that, and so do we.
            const Merge* now = merges.find(left.id, right.id);
            if (!now || now->id != top.id) continue;
            left.id = static_cast<int32_t>(top.id);
            right.id = -1;
            left.after = right.after;
            if (right.after >= 0) symbols_[right.after].before = top.left;
            offer(left.before);
            offer(top.left);
        }
        for (int32_t at = 0; at >= 0; at = symbols_[at].after) out.push_back(symbols_[at].id);
    }

    static std::string in_bytes(uint32_t character) {
        const auto tail = [character](int shift) { return static_cast<char>(0x80 | (character >> shift & 0x3f)); };
        if (character < 0x80) return {static_cast<char>(character)};
        if (character < 0x800) return {static_cast<char>(0xc0 | character >> 6), tail(0)};
        if (character < 0x10000) return {static_cast<char>(0xe0 | character >> 12), tail(6), tail(0)};
        return {static_cast<char>(0xf0 | character >> 18), tail(12), tail(6), tail(0)};
    }

    std::vector<int32_t> ids_of_;      // of single characters
    std::vector<uint64_t> may_meet_;   // a bit for each pair of characters that some merge brings together
    Table words_;
    std::vector<int32_t> ids_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Candidate> agenda_;
};

Encoder* encoder_of(PyObject* capsule) { return static_cast<Encoder*>(PyCapsule_GetPointer(capsule, kCapsule)); }

bool id_of(PyObject* vocabulary, PyObject* piece, uint32_t& id) {
    PyObject* value = PyDict_GetItemWithError(vocabulary, piece);
    if (!value) {
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, piece);
        return false;
    }
    id = static_cast<uint32_t>(PyLong_AsLong(value));
    return !PyErr_Occurred();
}

bool add_merge(Encoder& encoder, PyObject* vocabulary, PyObject* left, PyObject* right, uint32_t rank) {
    const Py_ssize_t left_size = PyUnicode_GetLength(left), right_size = PyUnicode_GetLength(right);
    if (left_size < 1 || right_size < 1) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "a merge of an empty piece");
        return false;
    }
    PyObject* whole = PyUnicode_Concat(left, right);
    uint32_t left_id, right_id, id;
    const bool found = whole && id_of(vocabulary, left, left_id) && id_of(vocabulary, right, right_id) &&
                       id_of(vocabulary, whole, id);
    Py_XDECREF(whole);
    if (!found) return false;
    encoder.merges.insert(left_id, right_id, rank, id);
    encoder.add_meeting(PyUnicode_READ_CHAR(left, left_size - 1), PyUnicode_READ_CHAR(right, 0));
    return true;
}

bool fill(Encoder& encoder, PyObject* vocabulary, PyObject* merges, PyObject* byte_ids, PyObject* added) {
    PyObject *piece, *value;
    for (Py_ssize_t at = 0; PyDict_Next(vocabulary, &at, &piece, &value);)
        if (PyUnicode_Check(piece) && PyUnicode_GET_LENGTH(piece) == 1)
            encoder.add_character(PyUnicode_READ_CHAR(piece, 0), static_cast<int32_t>(PyLong_AsLong(value)));
    encoder.merges.reserve(PyList_GET_SIZE(merges));
    for (Py_ssize_t rank = 0; rank < PyList_GET_SIZE(merges); ++rank) {
        PyObject *left, *right;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(merges, rank), "UU", &left, &right)) return false;
        if (!add_merge(encoder, vocabulary, left, right, static_cast<uint32_t>(rank))) return false;
    }
    for (int byte = 0; byte < 256; ++byte)
        encoder.byte_ids[byte] = static_cast<int32_t>(PyLong_AsLong(PyList_GET_ITEM(byte_ids, byte)));
    for (Py_ssize_t at = 0; PyDict_Next(added, &at, &piece, &value);) {
        Py_ssize_t size;
        const char* bytes = PyUnicode_AsUTF8AndSize(piece, &size);
        if (!bytes) return false;
        if (size) encoder.added.add(bytes, size, value == Py_None ? AddedTokens::kText : PyLong_AsLong(value));
    }
    return !PyErr_Occurred();
}

// new(vocabulary: dict[str, int], merges: list[tuple[str, str]], byte_ids: list[int], added: dict[str, int | None],
//     mark_becomes: str of one character) -> capsule; None for an added token that in a text is text
PyObject* make(PyObject*, PyObject* arguments) {
    PyObject *vocabulary, *merges, *byte_ids, *added;
    int mark;
    if (!PyArg_ParseTuple(arguments, "O!O!O!O!C", &PyDict_Type, &vocabulary, &PyList_Type, &merges, &PyList_Type,
                          &byte_ids, &PyDict_Type, &added, &mark))
        return nullptr;
    if (PyList_GET_SIZE(byte_ids) != 256) {
        PyErr_SetString(PyExc_ValueError, "byte_ids must be of length 256");
        return nullptr;
    }
    auto* encoder = new Encoder;
    encoder->mark_becomes = static_cast<uint32_t>(mark);
    if (!fill(*encoder, vocabulary, merges, byte_ids, added)) {
        delete encoder;
        return nullptr;
    }
    return PyCapsule_New(encoder, kCapsule, [](PyObject* capsule) { delete encoder_of(capsule); });
}

PyObject* encode(PyObject*, PyObject* arguments) { return encode_all<Encoder>(arguments, kCapsule); }

PyMethodDef methods[] = {{"new", make, METH_VARARGS, "An encoder of a vocabulary and its merges."},
                         {"encode", encode, METH_VARARGS, "The ids of texts, end to end, and where each ends."},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_bpe_merges", "The BPE of a tokenizer.json with a memory for words.", -1,
                      methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__bpe_merges() { return PyModule_Create(&module); }
