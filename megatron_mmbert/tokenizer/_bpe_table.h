// What the two compiled encoders share: a table from short strings to numbers, made for the cache of words.

#ifndef MEGATRON_MMBERT_BPE_TABLE_H
#define MEGATRON_MMBERT_BPE_TABLE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr size_t kMaxWords = size_t{1} << 20;  // then all are forgotten: about 60 MB
constexpr size_t kMaxWordBytes = 64;           // bytes; longer words are too rare to be remembered

// Where kPadding bytes after a string may be read, its end is loaded as a whole word and masked: a call of memcpy or memcmp
// for a few bytes costs more than all the rest of a look-up.
constexpr size_t kPadding = 8;

uint64_t last_bytes(const char* bytes, size_t size, bool padded) {  // of fewer than 8
    uint64_t word = 0;
    if (!padded) {
        std::memcpy(&word, bytes, size);
        return word;
    }
    std::memcpy(&word, bytes, 8);
    return word & ((uint64_t{1} << (8 * size)) - 1);
}

uint64_t hash_of(const char* bytes, size_t size, bool padded) {
    uint64_t hash = size * 0x9e3779b97f4a7c15ULL;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint64_t word;
        std::memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdULL;
        hash ^= hash >> 32;
    }
    hash = (hash ^ last_bytes(bytes, size, padded)) * 0xc4ceb9fe1a85ec53ULL;
    return hash ^ (hash >> 29);
}

bool same(const char* one, const char* other, size_t size, bool padded) {  // `other` is always padded
    for (; size >= 8; one += 8, other += 8, size -= 8)
        if (std::memcmp(one, other, 8)) return false;
    return last_bytes(one, size, padded) == last_bytes(other, size, true);
}

// Strings to numbers or to places in another buffer: open addressing in entries of 16 bytes, so that four share a cache
// line; keys in one buffer, compared byte by byte.
class Table {
  public:
    struct Entry {
        uint32_t tag = 0, key = 0, value = 0;
        uint16_t key_size = 0, value_size = 0;  // a key is never empty: 0 marks a free entry
    };

    Table() : entries_(1024), keys_(kPadding, 0) {}

    void prefetch(uint64_t hash) const { __builtin_prefetch(&entries_[hash & (entries_.size() - 1)]); }

    const Entry* find(const char* bytes, size_t size, uint64_t hash, bool padded) const {
        const uint32_t tag = static_cast<uint32_t>(hash >> 32);
        for (size_t at = hash & (entries_.size() - 1);; at = (at + 1) & (entries_.size() - 1)) {
            const Entry& entry = entries_[at];
            if (!entry.key_size) return nullptr;
            if (entry.tag == tag && entry.key_size == size && same(bytes, keys_.data() + entry.key, size, padded))
                return &entry;
        }
    }

    void insert(const char* bytes, size_t size, uint64_t hash, uint32_t value, size_t value_size) {
        if (2 * ++count_ > entries_.size()) grow();
        Entry entry;
        entry.tag = static_cast<uint32_t>(hash >> 32);
        entry.key = static_cast<uint32_t>(keys_.size() - kPadding);
        entry.value = value;
        entry.key_size = static_cast<uint16_t>(size);
        entry.value_size = static_cast<uint16_t>(value_size);
        keys_.resize(keys_.size() - kPadding);
        keys_.append(bytes, size).append(kPadding, 0);
        place(entry, hash);
    }

    void clear() { *this = Table(); }
    size_t count() const { return count_; }

  private:
    void place(const Entry& entry, uint64_t hash) {
        size_t at = hash & (entries_.size() - 1);
        while (entries_[at].key_size) at = (at + 1) & (entries_.size() - 1);
        entries_[at] = entry;
    }
    void grow() {
        std::vector<Entry> old(entries_.size() * 2);
        old.swap(entries_);
        for (const Entry& entry : old)
            if (entry.key_size) place(entry, hash_of(keys_.data() + entry.key, entry.key_size, true));
    }

    std::vector<Entry> entries_;
    std::string keys_;
    size_t count_ = 0;
};

size_t character_size(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4; }

template <typename Number>
PyObject* bytes_of(const std::vector<Number>& numbers) {
    const auto size = static_cast<Py_ssize_t>(numbers.size() * sizeof(Number));
    return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(numbers.data()), size);
}

// encode(capsule of the kind, texts: list[str]) -> (ids of all texts end to end: bytes of int32, ends: bytes of int64)
template <typename Encoder>
PyObject* encode_all(PyObject* arguments, const char* kind) {
    PyObject *capsule, *texts;
    if (!PyArg_ParseTuple(arguments, "OO!", &capsule, &PyList_Type, &texts)) return nullptr;
    auto* encoder = static_cast<Encoder*>(PyCapsule_GetPointer(capsule, kind));
    if (!encoder) return nullptr;
    std::vector<int32_t> ids;
    std::vector<int64_t> ends;
    for (Py_ssize_t number = 0; number < PyList_GET_SIZE(texts); ++number) {
        Py_ssize_t size;
        const char* text = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(texts, number), &size);
        if (!text) return nullptr;
        if (size >= INT32_MAX / 4) {  // offsets in a word are of 32 bits, and a space takes three bytes
            PyErr_SetString(PyExc_ValueError, "a text of half a gigabyte or more");
            return nullptr;
        }
        encoder->encode(text, size, ids);
        ends.push_back(static_cast<int64_t>(ids.size()));
    }
    return Py_BuildValue("NN", bytes_of(ids), bytes_of(ends));
}

}  // namespace

#endif
