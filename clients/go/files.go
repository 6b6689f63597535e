package keyfold

import (
	"io"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// stamp tells one state of a file from another.
type stamp struct {
	size     int64
	modified time.Time
	file     os.FileInfo
}

func (s stamp) same(other stamp) bool {
	return s.size == other.size && s.modified.Equal(other.modified) && os.SameFile(s.file, other.file)
}

// watched is a value that is read from files, and read again when one of them has changed. After the
// first time, files that are missing or half-written leave the last value in use: a rotation must not
// fail a call, and the server refuses what has expired anyway.
type watched[T any] struct {
	paths []string
	read  func(contents [][]byte) (T, error)
	most  int64

	mutex  sync.Mutex
	stamps []stamp
	value  T
}

// watch reads the value for the first time.
//
// Of each file it reads at most so many bytes, and refuses a larger one: that catches a wrong path.
func watch[T any](paths []string, most int64, read func([][]byte) (T, error)) (*watched[T], error) {
	w := &watched[T]{paths: paths, read: read, most: most}
	if err := w.refresh(); err != nil {
		return nil, err
	}
	return w, nil
}

// current returns the newest value.
func (w *watched[T]) current() T {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	for i, path := range w.paths {
		found, err := os.Stat(path)
		if err != nil {
			break
		}
		if !w.stamps[i].same(stampOf(found)) {
			_ = w.refresh()
			break
		}
	}
	return w.value
}

func (w *watched[T]) refresh() error {
	stamps := make([]stamp, len(w.paths))
	contents := make([][]byte, len(w.paths))
	for i, path := range w.paths {
		var err error
		if stamps[i], contents[i], err = content(path, w.most); err != nil {
			return err
		}
	}
	value, err := w.read(contents)
	if err != nil {
		return err
	}
	w.stamps, w.value = stamps, value
	return nil
}

func content(path string, most int64) (stamp, []byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return stamp{}, nil, unreadable(err)
	}
	defer file.Close()
	// The open file's own stamp: the path may name another file by now.
	found, err := file.Stat()
	if err != nil {
		return stamp{}, nil, unreadable(err)
	}
	read, err := io.ReadAll(io.LimitReader(file, most+1))
	if err != nil {
		return stamp{}, nil, unreadable(err)
	}
	if int64(len(read)) > most {
		return stamp{}, nil, unusable("%s holds more than %d bytes", path, most)
	}
	return stampOf(found), read, nil
}

func unreadable(err error) *Error {
	return local(ReasonFileUnreadable, codes.InvalidArgument, err, "%s", err)
}

func stampOf(found os.FileInfo) stamp { return stamp{found.Size(), found.ModTime(), found} }
