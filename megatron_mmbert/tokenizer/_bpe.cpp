// SentencePiece's BPE for models whose words are separate (word_cache.py), with a cache of words: the same ids, several times
// faster. Optional: where it is not built, word_cache.py does the same with SentencePiece itself.
//
// Neighbouring symbols are merged by the highest score of the piece they make, the leftmost first among equals, until no
// piece of the vocabulary is left to make; a character that is no piece becomes its bytes. A word is encoded once and then
// remembered; words are cut where a letter is followed by a space or a line end.

#include "_bpe_table.h"

#include <queue>

namespace {

constexpr const char* kCapsule = "megatron_mmbert.tokenizer._bpe.Encoder";
struct Symbol {
    int32_t start, size, before, after;
    int32_t id;  // once merged
};

struct Pair {
    float score;
    int32_t left, right, size, id;
    bool operator<(const Pair& other) const {
        return score < other.score || (score == other.score && left > other.left);
    }
};

class Encoder {
  public:
    std::vector<float> scores;
    int32_t byte_ids[256];
    std::string mark_becomes;  // what a U+2581 of the text becomes

    Encoder() : may_be_piece_(kFilterBits / 64) {}

    void add_piece(const char* bytes, size_t size, uint32_t id) {
        const uint64_t hash = hash_of(bytes, size, false);
        pieces_.insert(bytes, size, hash, id, 1);
        may_be_piece_[hash % kFilterBits / 64] |= uint64_t{1} << (hash % 64);
    }

    void encode(const char* text, size_t size, std::vector<int32_t>& out) {
        for (size_t at = 0; at < size;) {
            found_.clear();
            while (at < size && found_.size() < kWordsAtOnce) {
                const size_t start = at;
                while (at < size && (text[at] == ' ' || text[at] == '\n')) ++at;
                while (at < size && text[at] != ' ' && text[at] != '\n') ++at;
                const bool padded = at + kPadding <= size;
                found_.push_back({text + start, at - start, hash_of(text + start, at - start, padded), padded});
            }
            // The table of words is far larger than the caches: ask for an entry some words before it is needed.
            constexpr size_t kAhead = 12;
            for (size_t number = 0; number < found_.size(); ++number) {
                if (number + kAhead < found_.size()) words_.prefetch(found_[number + kAhead].hash);
                word(found_[number], out);
            }
        }
    }

  private:
    static constexpr size_t kFilterBits = size_t{1} << 21;
    static constexpr size_t kWordsAtOnce = 1024;
    struct Word {
        const char* bytes;
        size_t size;
        uint64_t hash;
        bool padded;
    };

    void word(const Word& word, std::vector<int32_t>& out) {
        const auto [bytes, size, hash, padded] = word;
        if (const Table::Entry* known = words_.find(bytes, size, hash, padded)) {
            out.insert(out.end(), ids_.begin() + known->value, ids_.begin() + known->value + known->value_size);
            return;
        }
        const size_t before = out.size();
        merge(bytes, size, out);
        if (size > kMaxWordBytes) return;  // then it has at most 3 * 64 ids
        if (words_.count() >= kMaxWords) words_.clear(), ids_.clear();
        words_.insert(bytes, size, hash, static_cast<uint32_t>(ids_.size()), out.size() - before);
        ids_.insert(ids_.end(), out.begin() + before, out.end());
    }

    int32_t id_of(size_t start, size_t size) const {
        const char* bytes = normal_.data() + start;
        const uint64_t hash = hash_of(bytes, size, true);
        if (!(may_be_piece_[hash % kFilterBits / 64] >> (hash % 64) & 1)) return -1;  // most are none
        const Table::Entry* found = pieces_.find(bytes, size, hash, true);
        return found ? static_cast<int32_t>(found->value) : -1;
    }

    void offer(int32_t left, int32_t right) {
        if (left < 0 || right < 0) return;
        const int32_t size = symbols_[left].size + symbols_[right].size;
        const int32_t id = id_of(symbols_[left].start, size);
        if (id >= 0) agenda_.push({scores[id], left, right, size, id});
    }

    void merge(const char* bytes, size_t size, std::vector<int32_t>& out) {
        normal_.clear();
        for (size_t at = 0; at < size; ++at) {
            if (bytes[at] == ' ') {
                normal_ += "\xe2\x96\x81";
            } else if (at + 3 <= size && !std::memcmp(bytes + at, "\xe2\x96\x81", 3)) {
                normal_ += mark_becomes;
                at += 2;
            } else {
                normal_ += bytes[at];
            }
        }
        const size_t normal_size = normal_.size();
        normal_.append(kPadding, 0);
        symbols_.clear();
        for (size_t at = 0; at < normal_size;) {
            size_t length = character_size(static_cast<unsigned char>(normal_[at]));
            if (at + length > normal_size) length = normal_size - at;
            const int32_t number = static_cast<int32_t>(symbols_.size());
            symbols_.push_back({static_cast<int32_t>(at), static_cast<int32_t>(length), number - 1, number + 1, -1});
            at += length;
        }
        symbols_.back().after = -1;
        for (size_t right = 1; right < symbols_.size(); ++right) offer(right - 1, right);
        while (!agenda_.empty()) {
            const Pair top = agenda_.top();
            agenda_.pop();
            Symbol& left = symbols_[top.left];
            Symbol& right = symbols_[top.right];
            if (!left.size || !right.size || left.size + right.size != top.size) continue;  // merged otherwise since
            left.size += right.size;
            left.after = right.after;
            left.id = top.id;
            if (right.after >= 0) symbols_[right.after].before = top.left;
            right.size = 0;
            offer(left.before, top.left);
            offer(top.left, left.after);
        }
        for (int32_t at = 0; at >= 0; at = symbols_[at].after) {
            const Symbol& symbol = symbols_[at];
            const int32_t id = symbol.id >= 0 ? symbol.id : id_of(symbol.start, symbol.size);
            if (id >= 0) {
                out.push_back(id);
            } else {
                for (int32_t byte = 0; byte < symbol.size; ++byte)
                    out.push_back(byte_ids[static_cast<unsigned char>(normal_[symbol.start + byte])]);
            }
        }
    }

    Table pieces_, words_;
    std::vector<uint64_t> may_be_piece_;  // a bit for each piece's hash: a look at it saves most look-ups
    std::vector<Word> found_;
    std::vector<int32_t> ids_;
    std::string normal_;
    std::vector<Symbol> symbols_;
    std::priority_queue<Pair> agenda_;
};

Encoder* encoder_of(PyObject* capsule) { return static_cast<Encoder*>(PyCapsule_GetPointer(capsule, kCapsule)); }

// new(pieces: list[bytes | None], scores: list[float], byte_ids: list[int], mark_becomes: bytes) -> capsule
PyObject* make(PyObject*, PyObject* arguments) {
    PyObject *pieces, *scores, *byte_ids;
    const char* mark;
    Py_ssize_t mark_size;
    if (!PyArg_ParseTuple(arguments, "O!O!O!y#", &PyList_Type, &pieces, &PyList_Type, &scores, &PyList_Type, &byte_ids,
                          &mark, &mark_size))
        return nullptr;
    if (PyList_GET_SIZE(pieces) != PyList_GET_SIZE(scores) || PyList_GET_SIZE(byte_ids) != 256) {
        PyErr_SetString(PyExc_ValueError, "pieces and scores must be of one length, and byte_ids of 256");
        return nullptr;
    }
    auto* encoder = new Encoder;
    encoder->mark_becomes.assign(mark, mark_size);
    for (Py_ssize_t id = 0; id < PyList_GET_SIZE(pieces); ++id) {
        encoder->scores.push_back(static_cast<float>(PyFloat_AsDouble(PyList_GET_ITEM(scores, id))));
        PyObject* piece = PyList_GET_ITEM(pieces, id);
        if (piece == Py_None) continue;  // a piece that text does not give
        char* bytes;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(piece, &bytes, &size) < 0) break;
        if (size > 0 && size <= UINT16_MAX) encoder->add_piece(bytes, size, static_cast<uint32_t>(id));
    }
    for (int byte = 0; byte < 256; ++byte)
        encoder->byte_ids[byte] = static_cast<int32_t>(PyLong_AsLong(PyList_GET_ITEM(byte_ids, byte)));
    if (PyErr_Occurred()) {
        delete encoder;
        return nullptr;
    }
    return PyCapsule_New(encoder, kCapsule, [](PyObject* capsule) { delete encoder_of(capsule); });
}

PyObject* encode(PyObject*, PyObject* arguments) { return encode_all<Encoder>(arguments, kCapsule); }

PyMethodDef methods[] = {{"new", make, METH_VARARGS, "An encoder of a vocabulary."},
                         {"encode", encode, METH_VARARGS, "The ids of texts, end to end, and where each ends."},
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "_bpe", "SentencePiece's BPE with a memory for words.", -1, methods,
                      nullptr,               nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__bpe() { return PyModule_Create(&module); }
