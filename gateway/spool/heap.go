package spool

import "container/heap"

// queue is a heap whose items know their place in it.
type queue[T any] struct {
	before func(a, b T) bool
	place  func(T) *int32
	items  []T
}

func (q *queue[T]) Len() int           { return len(q.items) }
func (q *queue[T]) Less(i, j int) bool { return q.before(q.items[i], q.items[j]) }

func (q *queue[T]) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	*q.place(q.items[i]), *q.place(q.items[j]) = int32(i), int32(j)
}

// Push is for package heap; push is for everybody else.
func (q *queue[T]) Push(item any) {
	*q.place(item.(T)) = int32(len(q.items))
	q.items = append(q.items, item.(T))
}

// Pop is for package heap; remove is for everybody else.
func (q *queue[T]) Pop() any {
	last := len(q.items) - 1
	item := q.items[last]
	var none T
	q.items[last] = none
	q.items = q.items[:last]
	if cap(q.items) > 64 && len(q.items) < cap(q.items)/4 {
		q.items = append(make([]T, 0, cap(q.items)/2), q.items...) // a million files were here
	}
	return item
}

func (q *queue[T]) push(item T)   { heap.Push(q, item) }
func (q *queue[T]) remove(item T) { heap.Remove(q, int(*q.place(item))) }

// fix puts an item where it belongs after its rank has changed.
func (q *queue[T]) fix(item T) { heap.Fix(q, int(*q.place(item))) }

// first returns what comes before all others. The queue is not empty.
func (q *queue[T]) first() T { return q.items[0] }
