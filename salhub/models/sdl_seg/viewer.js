// A press in the slice is picked by its place, as shares of the picture; buttons by their name.
element.addEventListener('click', (event) => {
	const button = event.target.closest('[data-pick]');
	const picture = event.target.closest('.slice-picture img');
	if (button) {
		trigger('click', {pick: button.dataset.pick});
	} else if (picture) {
		const box = picture.getBoundingClientRect();
		const share = (at, from, size) => ((at - from) / size).toFixed(4);
		const x = share(event.clientX, box.left, box.width);
		const y = share(event.clientY, box.top, box.height);
		trigger('click', {pick: `at ${x} ${y}`});
	}
});
