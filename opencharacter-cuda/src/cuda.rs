//! An NVIDIA GPU: memory and kernels through the driver, products through cuBLAS.
//!
//! Both libraries are loaded when a device is opened, so the program starts on machines that have neither. All work goes
//! to one stream, and memory is taken and given back in that stream's order: nothing here waits but `download`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    ffi::{CString, c_void},
    fmt,
};

use cudarc::{
    cublas::{result as blas, sys as blas_sys},
    driver::{result as driver, sys as driver_sys},
};

use crate::{
    DeviceError,
    device::{Device, Kind, Launch, Matrix, Precision, Product},
};

/// The driver wants the kernels at an aligned place.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

static KERNELS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin")));

/// Dynamic shared memory that every kernel may use without asking.
const PLAIN_SHARED_BYTES: usize = 48 * 1024;

/// One GPU.
pub struct Cuda {
    name: String,
    device: driver_sys::CUdevice,
    stream: driver_sys::CUstream,
    module: driver_sys::CUmodule,
    blas: blas_sys::cublasHandle_t,
    functions: RefCell<HashMap<String, driver_sys::CUfunction>>,
    allocated: Cell<usize>,
    peak: Cell<usize>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cuda")
            .field("name", &self.name)
            .field("allocated", &self.allocated)
            .finish_non_exhaustive()
    }
}

fn failed<E: fmt::Debug>(call: &str) -> impl FnOnce(E) -> DeviceError + use<'_, E> {
    move |error| DeviceError::Call { call: call.into(), reason: format!("{error:?}") }
}

impl Cuda {
    /// Opens GPU `ordinal`, counted from 0 in the driver's order.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // SAFETY: loading these libraries runs nothing but their own start.
        unsafe {
            if !driver_sys::is_culib_present() {
                return Err(DeviceError::NoDriver);
            }
            if !blas_sys::is_culib_present() {
                return Err(DeviceError::NoBlas);
            }
        }
        driver::init().map_err(|error| DeviceError::NoDevice(format!("{error:?}")))?;
        let device =
            driver::device::get(ordinal as i32).map_err(|error| DeviceError::NoDevice(format!("{error:?}")))?;
        let name = driver::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
        // SAFETY: the device was just got; what is made here is unmade in `drop`, in the opposite order.
        unsafe {
            let attribute = |attribute| driver::device::get_attribute(device, attribute);
            let major = attribute(driver_sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
                .map_err(failed("cuDeviceGetAttribute"))?;
            if major < 8 {
                return Err(DeviceError::NoDevice(format!("{name} is older than Ampere and has no bf16 tensor cores")));
            }
            let context = driver::primary_ctx::retain(device).map_err(failed("cuDevicePrimaryCtxRetain"))?;
            driver::ctx::set_current(context).map_err(failed("cuCtxSetCurrent"))?;
            keep_freed_memory(device).map_err(failed("cuMemPoolSetAttribute"))?;
            let stream =
                driver::stream::create(driver::stream::StreamKind::NonBlocking).map_err(failed("cuStreamCreate"))?;
            let module = driver::module::load_data(KERNELS.0.as_ptr().cast()).map_err(failed("cuModuleLoadData"))?;
            let blas = blas::create_handle().map_err(failed("cublasCreate"))?;
            // cuBLAS is loaded with the driver's types under names of its own.
            blas::set_stream(blas, stream.cast()).map_err(failed("cublasSetStream"))?;
            let mode = blas_sys::cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
            blas_sys::cublasSetMathMode(blas, mode).result().map_err(failed("cublasSetMathMode"))?;
            Ok(Self {
                name,
                device,
                stream,
                module,
                blas,
                functions: RefCell::default(),
                allocated: Cell::default(),
                peak: Cell::default(),
            })
        }
    }

    /// A kernel of the module, ready for blocks with `shared_bytes` of dynamic shared memory.
    fn function(&self, name: &str, shared_bytes: usize) -> Result<driver_sys::CUfunction, DeviceError> {
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(*function);
        }
        let symbol = CString::new(name).map_err(failed(name))?;
        // SAFETY: the module is loaded.
        let function = unsafe { driver::module::get_function(self.module, symbol) }.map_err(failed(name))?;
        if shared_bytes > PLAIN_SHARED_BYTES {
            let attribute = driver_sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found. A kernel is always started with the same size.
            unsafe { driver::function::set_function_attribute(function, attribute, shared_bytes as i32) }
                .map_err(failed(name))?;
        }
        self.functions.borrow_mut().insert(name.to_owned(), function);
        Ok(function)
    }
}

/// Memory that is given back stays with the process, for the next batch.
///
/// # Safety
/// The device's context is current.
unsafe fn keep_freed_memory(device: driver_sys::CUdevice) -> Result<(), driver::DriverError> {
    // SAFETY: the caller's promise; the attribute is a u64.
    unsafe {
        let pool = driver::device::get_default_mem_pool(device)?;
        let mut threshold = u64::MAX;
        let attribute = driver_sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        driver_sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result()
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: made in `open`, in the opposite order. What fails here cannot be helped.
        unsafe {
            let _ = driver::stream::synchronize(self.stream);
            let _ = blas::destroy_handle(self.blas);
            let _ = driver::module::unload(self.module);
            let _ = driver::stream::destroy(self.stream);
            let _ = driver::primary_ctx::release(self.device);
        }
    }
}

impl Device for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn precision(&self) -> Precision {
        Precision::Bf16
    }

    fn peak_bytes(&self) -> usize {
        self.peak.get()
    }

    fn allocate(&self, bytes: usize, what: &'static str) -> Result<u64, DeviceError> {
        // SAFETY: the stream lives as long as `self`.
        let address = unsafe { driver::malloc_async(self.stream, bytes) }.map_err(|error| match error.0 {
            driver_sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes, what },
            _ => failed("cuMemAllocAsync")(error),
        })?;
        self.allocated.set(self.allocated.get() + bytes);
        self.peak.set(self.peak.get().max(self.allocated.get()));
        Ok(address)
    }

    unsafe fn free(&self, address: u64, bytes: usize) {
        // SAFETY: the caller's promise. What fails here cannot be helped.
        let _ = unsafe { driver::free_async(address, self.stream) };
        self.allocated.set(self.allocated.get() - bytes);
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise. The bytes are pageable: they are copied before the call returns.
        unsafe { driver::memcpy_htod_async(to, bytes, self.stream) }.map_err(failed("cuMemcpyHtoDAsync"))
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise; `bytes` is waited for.
        unsafe {
            driver::memcpy_dtoh_async(bytes, from, self.stream).map_err(failed("cuMemcpyDtoHAsync"))?;
            driver::stream::synchronize(self.stream).map_err(failed("cuStreamSynchronize"))
        }
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { driver::memset_d8_async(address, 0, bytes, self.stream) }.map_err(failed("cuMemsetD8Async"))
    }

    unsafe fn launch(&self, launch: &Launch<'_>, arguments: *const c_void) -> Result<(), DeviceError> {
        let name = format!("{}_{}", launch.kernel, self.precision().suffix());
        let function = self.function(&name, launch.shared_bytes)?;
        let [x, y, z] = launch.grid;
        let mut parameters = [arguments.cast_mut()];
        // SAFETY: the caller's promise; the driver copies the structure before the call returns.
        unsafe {
            driver::launch_kernel(
                function,
                (x, y, z),
                (launch.threads, 1, 1),
                launch.shared_bytes as u32,
                self.stream,
                &mut parameters,
            )
        }
        .map_err(failed(&name))
    }

    fn multiply(&self, product: &Product<'_>) -> Result<(), DeviceError> {
        let (m, n, k) = product.extent();
        let operation = |turned| {
            if turned { blas_sys::cublasOperation_t::CUBLAS_OP_T } else { blas_sys::cublasOperation_t::CUBLAS_OP_N }
        };
        let kind = |matrix: &Matrix<'_>| match matrix.kind {
            Kind::Element => blas_sys::cudaDataType::CUDA_R_16BF,
            Kind::Float | Kind::Integer => blas_sys::cudaDataType::CUDA_R_32F,
        };
        let Product { out, left, turn_left, right, turn_right, scale, accumulate } = product;
        let beta: f32 = if *accumulate { 1.0 } else { 0.0 };
        // cuBLAS reads columns where these matrices have rows, so it sees each of them transposed: it is asked for
        // out' = right' left'.
        // SAFETY: the extents were checked, and a matrix lies inside its buffer.
        unsafe {
            blas::gemm_ex(
                self.blas,
                operation(*turn_right),
                operation(*turn_left),
                n as i32,
                m as i32,
                k as i32,
                std::ptr::from_ref(scale).cast(),
                right.address as *const c_void,
                kind(right),
                right.stride as i32,
                left.address as *const c_void,
                kind(left),
                left.stride as i32,
                std::ptr::from_ref(&beta).cast(),
                out.address as *mut c_void,
                kind(out),
                out.stride as i32,
                blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(|error| DeviceError::Call {
            call: format!("cublasGemmEx ({m} x {n} x {k})"),
            reason: format!("{error:?}"),
        })
    }
}
